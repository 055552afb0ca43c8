"""Responses and lists as people read them: text, Markdown, HTML. Pure functions of plain data."""
