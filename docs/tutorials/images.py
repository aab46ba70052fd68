# %% [markdown]
# # Images: from a folder to a classifier
#
# A folder of pictures, a masked autoencoder trained on it, two maskings compared, a classifier fine-tuned with
# few labels, and a model for timm that does not need polymask: a minute or two on a laptop's processor.
#
# ## A folder of your own
#
# Any folder of image files will do. Subfolders, if there are any, are classes. This one holds the 1,797 digits
# of scikit-learn, 8 x 8 pixels each.

# %%
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    file = Path("digits", str(label), f"{number:04}.png")
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15).astype(np.uint8)).save(file)

# %% [markdown]
# ## Look at the masks first
#
# A run is a system, its data and its options, in a folder. Nothing is trained yet, and its masks can be drawn
# already: `vision/mae` hides three quarters of the patches, here of 2 x 2 pixels, which are to be predicted as
# they are (`target.patch_norm`). The folder holds no test images, so a tenth of each class is held out.

# %%
from polymask import Run, RunConfig
from polymask.report.look import look

config = {
    "system": "vision/mae",
    "preset": "small",
    "data": "vision/folder:digits",
    "tokenizer.patch_size": 2,
    "target.patch_norm": False,
    "steps": 300,
    "workers": 0,  # files as small as these are read fast enough by the process that trains
}
run = Run.create(RunConfig.resolve(config), "runs/first")
Image.open(look(run.system, run.data, "masks.png", samples=6, draws=2))

# %% [markdown]
# ## Pre-train, without labels
#
# On the command line this is `polymask pretrain vision/mae --preset small --data folder:digits
# --tokenizer.patch_size 2 --target.patch_norm false --steps 300`. `polymask report runs/first` writes a page with curves, masks and
# reconstructions; `gather` gives its parts one by one.

# %%
from IPython.display import HTML, display

from polymask.report.page import gather
from polymask.training import fit

fit(run, progress=False)
for caption, picture in gather(run).pictures.items():
    display(HTML(f'<p>{caption}</p><img alt="{caption}" src="{picture}">'))

# %% [markdown]
# ## Did it learn something?
#
# A probe asks how well classes can be told by the features, which no label has shaped. What matters is the
# distance from the same encoder untrained, and from the pixels themselves.

# %%
import rich

from polymask.evaluation import probe

rich.print(probe(run).table())

# %% [markdown]
# Not yet: 300 steps are too few, and the intervals of the first two rows overlap. Without the untrained encoder
# beside it, 0.88 would have looked like success. Eight by eight pixels are also easy to tell apart as they are;
# a longer run on larger pictures (`polymask pretrain vision/mae --preset small --data fashion`) comes out ahead.
#
# ## Begin with weights, and compare two maskings
#
# `init` begins with the weights of another run, of a file, or of a model of timm. Both variants below begin with
# the encoder just trained, and have the same data, seeds and steps.

# %%
from polymask.report.compare import compare

comparison = compare(
    {**config, "init": "runs/first", "steps": 20},
    {"random": {"masking": "core/random"}, "blocks": {"masking": "core/block"}},
    "runs/compare",
    seeds=2,
    progress=False,
)
rich.print(comparison.table())

# %% [markdown]
# Two seeds and seconds of training show how it is done, not which masking is better: look at the intervals.
#
# ## Fine-tune with few labels
#
# A tenth of the labels, and all weights trained on; beside it the same encoder from scratch, with the same
# labels, seeds and steps.

# %%
from polymask.evaluation.finetuning import finetune

tuned = finetune("runs/first", labels=(0.1,), seeds=2, options={"steps": 100, "workers": 0}, progress=False)
rich.print(tuned.table())

# %% [markdown]
# ## Take it away
#
# Each of those runs is a run like any other. This one leaves as a model of timm, with its classifier: the folder
# is all that its users need, with a model card in it if `polymask export` writes it.

# %%
import timm
import torch

from polymask.export import export

export("runs/first/finetune-folder/pre-trained-0.1-seed0", "timm", "classifier")
model = timm.create_model("local-dir:classifier", pretrained=True).eval()

mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
for file in ("digits/3/0003.png", "digits/7/0007.png", "digits/8/0008.png"):
    pixels = torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32) / 255)
    logits = model((pixels[None, None] - mean[0]) / std[0])
    print(file, "is a", model.pretrained_cfg["label_names"][int(logits.argmax())])
