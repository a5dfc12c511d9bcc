"""The published language of Chorus: every fact that one service tells the others. Read this package first."""
