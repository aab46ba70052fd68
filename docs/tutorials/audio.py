# %% [markdown]
# # Audio: from recordings to a classifier
#
# A folder of recordings, a masked autoencoder of spectrograms trained on it, two maskings compared, a classifier of
# voices fine-tuned, and an ONNX file of it: a few minutes on a laptop's processor.
#
# ## A folder of your own
#
# Any folder of audio files will do. Subfolders, if there are any, are classes; `train` and `test` above them are
# your own split. These are spoken words that come with polymask, in the voices of four speakers; the words to test
# on are none of those to train on.

# %%
from pathlib import Path

import soundfile

from polymask.data import open_data

words = open_data("audio/words", label="speaker")
for split in ("train", "test"):
    samples, labels = words.split(split), words.labels(split)
    for number in range(len(samples)):
        file = Path("voices", split, words.classes[labels[number]], f"{number:03}.wav")
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, samples[number]["audio"].numpy(), 16_000)

# %% [markdown]
# ## Look at the masks first
#
# A run is a system, its data and its options, in a folder. Nothing is trained yet, and its masks can be drawn
# already: `audio/mae` cuts a spectrogram into patches of time and frequency and hides three quarters of them.

# %%
from PIL import Image

from polymask import Run, RunConfig
from polymask.report.look import look

config = {
    "system": "audio/mae",
    "preset": "small",
    "data": {"name": "audio/folder", "source": "voices", "seconds": 1.0, "pad": True},
    "steps": 50,
    "batch_size": 16,
    "workers": 0,  # files as small as these are read fast enough by the process that trains
}
run = Run.create(RunConfig.resolve(config), "runs/first")
Image.open(look(run.system, run.data, "masks.png", samples=3, draws=2, masks=256))

# %% [markdown]
# ## Pre-train, without labels
#
# On the command line this is `polymask pretrain audio/mae --preset small --data folder:voices --data.seconds 1
# --data.pad true --steps 50 --batch_size 16`. `polymask report runs/first` writes a page with curves, masks, recordings to listen
# to and reconstructions; `gather` gives its parts one by one.

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
# A probe asks how well voices can be told by the features, which no label has shaped. What matters is the distance
# from the same encoder untrained.

# %%
import rich

from polymask.evaluation import probe

rich.print(probe(run).table())

# %% [markdown]
# Nothing is shown yet: the intervals overlap, and spectra as they are tell four voices apart best. So few steps are to
# be quick, and a longer run is the first thing to try.
#
# ## Begin with weights, and compare two maskings
#
# `init` begins with the weights of another run, of a file, or of a model of torchaudio. Both variants below begin
# with the encoder just trained, and have the same data, seeds and steps.

# %%
from polymask.report.compare import compare

comparison = compare(
    {**config, "init": "runs/first", "steps": 10},
    {"random": {"masking": "core/random"}, "blocks": {"masking": "core/block"}},
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
# labels, seeds and steps. `labels=(0.1, 1.0)` would try a tenth of them too. After so short a pre-training there is
# little to keep, so all layers learn at the full rate (`layer_decay` 1).

# %%
from polymask.evaluation.finetuning import finetune

options = {"steps": 250, "batch_size": 16, "layer_decay": 1.0, "workers": 0}
tuned = finetune("runs/first", seeds=2, options=options, progress=False)
rich.print(tuned.table())

# %% [markdown]
# ## Take it away
#
# Each of those runs is a run like any other. This one leaves as one ONNX graph, from samples of sound to logits,
# which runs where neither polymask nor PyTorch is. `polymask.json` beside it names its inputs and classes.

# %%
import json

import numpy as np
import onnxruntime

from polymask.export import export

export("runs/first/finetune-folder/pre-trained-1-seed0", "onnx", "classifier")
session = onnxruntime.InferenceSession("classifier/model.onnx")
names = json.loads(Path("classifier/polymask.json").read_text())["classifier"]["names"]

for file in sorted(Path("voices/test").glob("*/*.wav"))[::45]:
    sound, rate = soundfile.read(file, dtype="float32", frames=16_000)
    sound = np.pad(sound, (0, 16_000 - len(sound)))
    (logits,) = session.run(None, {"audio": sound[None]})
    print(file, "is the voice of", names[int(logits.argmax())])
