"""What every service gets, and nothing of any one service. A closed list of files."""
