"""The published language of Chorus: every event that one service publishes for the others. Read this package first."""
