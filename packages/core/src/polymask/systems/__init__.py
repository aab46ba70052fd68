"""Published systems that are bound to no modality; the packages of modalities register them."""
