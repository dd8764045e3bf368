"""The page: server-rendered table, a form, one script; no build step."""
