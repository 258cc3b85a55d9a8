"""Models for programs that have no lowerbound: graphs, web pages, folders to share."""
