"""Images packed into shards: data larger than the memory, in a folder or on a server."""
