"""The whole story in one terminal: an authority, a device, an edge, and the impostors that are kept out."""
