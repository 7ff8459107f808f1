"""The built-in plugins: chat, projects and tasks.

They are loaded through entry points like plugins of other packages, and import only the public API, ``roomcast``. No
other part of roomcast imports them. Each module is complete, so that it can serve as an example.
"""
