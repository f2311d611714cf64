"""Direct effects of heads on the logits, without later layers: attribution, logit lens, copying, text descriptions."""
