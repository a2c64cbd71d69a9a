"""One module a family of operators. Each function returns a TIR function over channels-last, vector-padded tensors."""
