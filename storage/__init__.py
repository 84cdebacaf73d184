"""What survives: the write-ahead log and the SQLite database. The only importer of apsw."""
