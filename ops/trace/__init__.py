"""`chorus trace`: what became of an order, a flow or a user, from the databases of all services.

`facts` is what is read: from the databases by `reading`, where `anchors` says, and from the broker by `asking`.
`reasons` says why a hop is missing, `story` puts it together, `pages` shows it, `command` is the command line.
"""
