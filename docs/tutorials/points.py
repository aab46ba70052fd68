# %% [markdown]
# # Points: from scans to a classifier
#
# A folder of point clouds, a masked autoencoder trained on it, two maskings compared, a classifier of parts fine-tuned
# with labels, and the encoder in a folder of its own: a few minutes on a laptop's processor.
#
# ## A folder of your own
#
# Any folder of clouds or meshes will do. Subfolders, if there are any, are classes; `train` and `test` above them are
# your own split. These are electronic components that come with polymask, 1,024 points each.

# %%
from pathlib import Path

import numpy as np

from polymask.data import open_data

shapes = open_data("pointcloud/shapes")
for split in ("train", "test"):
    samples, labels = shapes.split(split), shapes.labels(split)
    for number in range(len(samples)):
        file = Path("shapes", split, shapes.classes[labels[number]], f"{number:03}.npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, samples[number]["points"].numpy())

# %% [markdown]
# ## Look at the masks first
#
# A run is a system, its data and its options, in a folder. Nothing is trained yet, and its masks can be drawn
# already: `pointcloud/mae` gathers points in overlapping groups and hides most of these.

# %%
from PIL import Image

from polymask import Run, RunConfig
from polymask.report.look import look

config = {
    "system": "pointcloud/mae",
    "preset": "small",
    "data": "pointcloud/folder:shapes",
    "steps": 300,
    "batch_size": 16,
    "workers": 0,  # files as small as these are read fast enough by the process that trains
}
run = Run.create(RunConfig.resolve(config), "runs/first")
Image.open(look(run.system, run.data, "masks.png", samples=3, draws=2, masks=256))

# %% [markdown]
# ## Pre-train, without labels
#
# On the command line this is `polymask pretrain pointcloud/mae --preset small --data folder:shapes --steps 300
# --batch_size 16`. `polymask report runs/first` writes a page with curves, masks and reconstructions; `gather` gives
# its parts one by one.

# %%
from IPython.display import HTML, display

from polymask.report.page import gather
from polymask.training import fit

fit(run, progress=False)
for caption, shown in gather(run).displays.items():
    display(HTML(f"<p>{caption}</p>{shown[0]}"))

# %% [markdown]
# ## Did it learn something?
#
# A probe asks how well classes can be told by the features, which no label has shaped. What matters is the distance
# from the same encoder untrained.

# %%
import rich

from polymask.evaluation import probe

rich.print(probe(run).table())

# %% [markdown]
# Not yet: the intervals overlap. Four hundred clouds and so few steps are to be quick; more of both is the first thing
# to try.
#
# ## Begin with weights, and compare two maskings
#
# `init` begins with the weights of another run. Both variants below begin with the encoder just trained, and have the
# same data, seeds and steps.

# %%
from polymask.report.compare import compare

comparison = compare(
    {**config, "init": "runs/first", "steps": 15},
    {"random": {"masking": "core/random"}, "local": {"masking": "pointcloud/neighbours"}},
    "runs/compare",
    seeds=2,
    progress=False,
)
rich.print(comparison.table())

# %% [markdown]
# Two seeds and seconds of training show how it is done, not which masking is better: look at the intervals.
#
# ## Fine-tune with labels
#
# All weights trained on, with all labels, since they are few; beside it the same encoder from scratch, with the same
# labels, seeds and steps. `labels=(0.1, 1.0)` would try a tenth of them too.

# %%
from polymask.evaluation.finetuning import finetune

options = {"steps": 150, "batch_size": 16, "workers": 0}
tuned = finetune("runs/first", seeds=2, options=options, progress=False)
rich.print(tuned.table())

# %% [markdown]
# ## Take it away
#
# An export holds the encoder, how to build it and what is known about its data, and needs neither the run nor its
# files. It embeds as the run does: here the components nearest to one that was held out.

# %%
from polymask.evaluation import embed
from polymask.export import export

export("runs/first", "safetensors", "encoder")
embed("encoder", "features.npz", data=open_data("pointcloud/folder:shapes"))

table = np.load("features.npz")
features = table["embedding"] - table["embedding"].mean(axis=0)  # what all clouds share tells none apart
features /= np.linalg.norm(features, axis=1, keepdims=True)
asked = table["split"].tolist().index("test")
for number in (features @ features[asked]).argsort()[::-1][:5]:
    print(f"{features[number] @ features[asked]:.3f}", table["split"][number], table["name"][number])
