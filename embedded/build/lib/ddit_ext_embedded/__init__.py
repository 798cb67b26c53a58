"""Weights and pictures of the embedded models; ``ddit_ext.embedded`` reads them."""
