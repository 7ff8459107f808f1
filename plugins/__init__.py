"""The plugins roomcast comes with; each is loaded from its entry point, as a foreign one is."""
