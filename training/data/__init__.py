"""Reading pictures, and dividing them: nothing here knows what is learnt from them."""
