"""Attribution: cells, slopes and the pieces that backward passes fit into."""
