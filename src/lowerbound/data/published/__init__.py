"""One file for each published data set; a tuple `BUNDLED` in it is found by `lowerbound.data.bundled`."""
