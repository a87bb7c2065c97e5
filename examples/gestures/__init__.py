"""Hand gestures: rendered or photographed, learned sparsely, recognised by a packed network."""
