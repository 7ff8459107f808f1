"""The JavaScript client: the bundle ``roomcast.js``, its types, its source map and its sources."""
