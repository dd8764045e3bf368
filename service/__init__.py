"""How to get a subnet: HTTP API, jobs, storage, web page, and the `onceforall` command."""
