# %% [markdown]
# # Text: from documents to a classifier
#
# A folder of texts, a masked language model trained on it, two shares of hidden words compared, a classifier of
# topics fine-tuned with few labels, and features of every document in a file: a few minutes on a laptop's
# processor.
#
# ## A folder of your own
#
# Any folder of text files will do. Subfolders, if there are any, are classes. These are definitions of WordNet that
# come with polymask, of four topics.

# %%
from pathlib import Path

from polymask_language.datasets.glosses import glosses

wordnet = glosses()
for topic in ("noun.animal", "noun.food", "noun.location", "noun.person"):
    chosen = [
        text for text, k in zip(wordnet.texts, wordnet.labels, strict=True) if wordnet.classes[k] == topic
    ]
    folder = Path("definitions", topic.removeprefix("noun."))
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(chosen[:600]):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")

# %% [markdown]
# ## Look at the masks first
#
# A run is a system, its data and its options, in a folder. A vocabulary is trained on the texts, unless one is named.
# No weight is trained yet, and the masks can be drawn already: `language/mlm` hides 15 % of the tokens, as BERT does.

# %%
from PIL import Image

from polymask import Run, RunConfig
from polymask.report.look import look

config = {
    "system": "language/mlm",
    "preset": "small",
    "data": {"name": "language/folder", "source": "definitions", "vocab_size": 1024, "length": 32},
    "steps": 120,
    "batch_size": 32,
    "workers": 0,  # files as small as these are read fast enough by the process that trains
}
run = Run.create(RunConfig.resolve(config), "runs/first")
Image.open(look(run.system, run.data, "masks.png", samples=2, draws=2, masks=256))

# %% [markdown]
# ## Pre-train, without labels
#
# On the command line this is `polymask pretrain language/mlm --preset small --data folder:definitions
# --data.vocab_size 1024 --data.length 32 --steps 120 --batch_size 32`. `polymask report runs/first` writes a page with
# curves, masks and what the model puts in hidden places; `gather` gives its parts one by one.

# %%
from IPython.display import HTML, display

from polymask.report.page import gather
from polymask.training import fit

fit(run, progress=False)
for caption, shown in gather(run).displays.items():
    display(HTML(f"<p>{caption}</p>{''.join(shown[:2])}"))

# %% [markdown]
# ## Did it learn something?
#
# A probe asks how well topics can be told by the features, which no label has shaped. What matters is the distance
# from the same encoder untrained, and from the words themselves.

# %%
import rich

from polymask.evaluation import probe

rich.print(probe(run).table())

# %% [markdown]
# Not yet: 120 steps are to be quick. The linear probe sees no difference, by its nearest neighbours the untrained
# encoder is even better, and counts of words are ahead of both. A longer run is the first thing to try.
#
# ## Begin with weights, and compare how much is hidden
#
# `init` begins with the weights of another run. Both variants below begin with the encoder just trained, and have the
# same data, seeds and steps.

# %%
from polymask.report.compare import compare

comparison = compare(
    {**config, "init": "runs/first", "steps": 30},
    {"15 %": {"masking.ratio": 0.15}, "40 %": {"masking.ratio": 0.4}},
    "runs/compare",
    seeds=2,
    progress=False,
)
rich.print(comparison.table())

# %% [markdown]
# Two seeds and seconds of training show how it is done, not what is better: look at the intervals.
#
# ## Fine-tune with few labels
#
# A tenth of the labels, and all weights trained on; beside it the same encoder from scratch, with the same labels,
# seeds and steps. After so short a pre-training there is little to keep, so all layers learn at the full rate
# (`layer_decay` 1).

# %%
from polymask.evaluation.finetuning import finetune

options = {"steps": 60, "layer_decay": 1.0, "workers": 0}
tuned = finetune("runs/first", labels=(0.1,), seeds=2, options=options, progress=False)
rich.print(tuned.table())

# %% [markdown]
# ## Take it away
#
# `embed` writes the features of every document to a file, and `export` one of those runs with its classifier;
# `load` builds it again, without the data of the run.

# %%
import numpy as np

from polymask.evaluation import embed

embed("runs/first", "features.npz")
table = np.load("features.npz")
features = table["embedding"] / np.linalg.norm(table["embedding"], axis=1, keepdims=True)
nearest = (features @ features[0]).argsort()[::-1][:4]
for name in table["name"][nearest]:
    print(f"{name}: {Path('definitions', name).read_text()}")

# %%
from polymask.data import collate
from polymask.export import export, load

export("runs/first/finetune-folder/pre-trained-0.1-seed0", "safetensors", "classifier")
classifier = load("classifier")

held_out = run.data.split("test")
logits = classifier.classify(collate([held_out[number] for number in range(0, len(held_out), 60)]))
for number, answer in zip(range(0, len(held_out), 60), logits.argmax(dim=1), strict=True):
    print(held_out.names()[number], "is about", classifier.names[answer])
