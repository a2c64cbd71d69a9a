"""The protocols: from bytes to checked parameters and back, by the service model. Pure: nothing here reads or writes."""
