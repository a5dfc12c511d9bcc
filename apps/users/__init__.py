"""Users: who there is, who may sign in, and the keys that tokens are signed with."""
