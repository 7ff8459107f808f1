"""The pages of the server: Jinja2 templates, style sheets and scripts."""
