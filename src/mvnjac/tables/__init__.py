"""Tables in and out: one file a format, read by batches, written by parts; memory does not grow with the number of rows."""
