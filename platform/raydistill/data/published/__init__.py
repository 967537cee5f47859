"""What reads files as others have published them: packages of an index, pickled lists, files of scores."""
