"""The amphora's namespace; links, addresses and routes come with the plugging of networks."""
