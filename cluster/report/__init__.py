"""`wm report`: the page of the morning."""
