"""Assembly: settings become concrete parts. The only room that names them.

Each function is a context: what it opens it closes, in reverse order, also on errors.
"""
