def names():
    return frozenset({"epochs","warmup_epochs","batch_size","base_lr","betas","weight_decay","augment","steps","warmup_steps","clip"})
