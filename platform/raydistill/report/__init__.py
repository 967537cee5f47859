"""What a job's figures and histories look like: tables, pictures and a page that has both."""
