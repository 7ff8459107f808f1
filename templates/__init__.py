"""The pages roomcast serves: Jinja2 templates with their style sheets and scripts."""
