"""COMET: Inherently Explainable Vision Model with Feature Detector (Zhang et al. 2024, arXiv 2407.19308).

A selector gives each pixel a share, a predictor classifies the picture of these shares, and a frozen
detector, trained on whole images beforehand, looks at what was removed. While it recognises the class there,
the selector is penalised: its mask must be complete, and it cannot agree with the predictor on noise.

    polymask recipe vision/comet --data stamps --data.size 64
    polymask pretrain vision/comet --preset small --data stamps --data.size 64 --detector FOLDER

The recipe trains the detector, then the rest. ``explain`` is the mask; ``polymask evaluate RUN localisation``
compares it with maps of objects. What is removed has the mean colour of the data, as in the released code.

The paper's selector minimises ``L_P - c L_D + b R`` (``--form linear``), which has no lower bound; the
released code's, and the default here, ``L_P + c max(L_P - L_D + g, 0) + b R``. The predictor minimises
``L_P`` alone. Both come from one backward pass and one optimiser: the selector's ``L_P`` goes through the
predictor with its weights held. That is a pass more than two optimisers would take. The detector is in
evaluation mode here; in the released code its batch norms go by the statistics of masked images. The budget
is an upper bound: choose it near the share of objects in the data. With ``--completeness 0`` the detector is
left out: the ordinary pair of selector and predictor, which needs a smaller ``--area``, as its mask is soon
empty. Released training drops the learning rate at epochs 80, 120 and 160, here it falls along a cosine.

Shapes: B samples, C channels, H rows and W columns of pixels, K classes.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, functional
from polymask.config import relative_to_run
from polymask.nn.teachers import Frozen
from polymask.protocols import Encoder, Tokenizer
from polymask.recipes import Stage
from polymask.systems.supervised import Supervised
from polymask.types import Count, Fact, NotNegative, Place, Share
from polymask_vision import presets
from polymask_vision.selectors import Selector, selector_of

UNTRAINED = "untrained"


class COMET(System):
    """Selector and predictor, and a frozen detector of what they leave.

    Args:
        tokenizer: cuts images into tokens, for the predictor.
        encoder: of the predictor (paper: ResNet-18).
        detector: folder of a finished run of a classifier, such as vision/supervised, of the same data; or
            ``"untrained"``, a copy of the predictor, to try things out.
        classes: number of classes, from the data.
        selector: network of the selector (paper: lraspp), see :func:`polymask_vision.selectors.selector_of`.
        selector_width: width of selector dilated.
        form: of what is left to the detector: ``"hinge"`` or ``"linear"``.
        completeness: c, its weight; 0 leaves the detector out.
        margin: g, by how many nats the removed part must be harder than the kept one, of the hinge.
        area: b, weight of what the mean of a mask exceeds the budget by.
        budget: share of an image that may be kept at no cost.
    """

    supervised = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        detector: Place = None,
        classes: Fact[Count] = 10,
        selector: Selector = "lraspp",
        selector_width: Count = 32,
        form: Literal["hinge", "linear"] = "hinge",
        completeness: NotNegative = 4.0,
        margin: float = 2.0,
        area: NotNegative = 100.0,
        budget: Share = 0.6,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder
        self.form, self.completeness, self.margin = form, completeness, margin
        self.area, self.budget = area, budget
        if form not in ("hinge", "linear") or selector not in ("lraspp", "dilated"):
            raise UserError(
                f"form={form!r}, selector={selector!r}: choose 'hinge' or 'linear', and 'lraspp' or 'dilated'"
            )
        facts = tokenizer.provides
        if "size" not in facts or "channels" not in facts:
            raise UserError(
                f"comet selects pixels, and {type(tokenizer).__name__} cuts no images: use vision/patches"
            )
        self.selector = selector_of(selector, facts["channels"], selector_width)
        self.head = nn.Linear(encoder.out_dim, classes)
        self.detector: Frozen | None = None
        if completeness:
            if detector is None:
                raise UserError(
                    "comet needs a detector, trained on whole images: give --detector FOLDER, of a run of "
                    "vision/supervised, or take polymask recipe vision/comet; --completeness 0 does without"
                )
            if detector == UNTRAINED:
                own: System = Supervised(tokenizer=tokenizer, encoder=copy.deepcopy(encoder), classes=classes)
            else:
                own = classifier_of(detector, facts, classes)
            self.detector = Frozen(own)

    def forward(self, batch: Batch, step: Step) -> Losses:
        image_BCHW, known = batch[self.tokenizer.key], Mask(batch["label"] >= 0)
        share_BHW = self.select(batch)
        share = share_BHW[:, None]
        # the predictor learns from the masks as they are, the selector from the predictor as it is
        own = self.loss(self.predict(batch, share.detach() * image_BCHW), batch, known)
        kept = self.loss(self.predict(batch, share * image_BCHW, held=True), batch, known)
        selection = kept + self.area * F.relu(share_BHW.mean((1, 2)) - self.budget).mean()
        if self.detector is not None:
            left = self.loss(self.detect(batch, (1 - share) * image_BCHW), batch, known)
            evidence = F.relu(kept - left + self.margin) if self.form == "hinge" else -left
            selection = selection + self.completeness * evidence
        return {"prediction": own, "selection": selection}

    def select(self, batch: Batch) -> Tensor:
        """The share of each pixel that is kept, float32 ``[B, H, W]``."""
        share_BHW: Tensor = self.selector(batch[self.tokenizer.key]).float().sigmoid()
        return share_BHW

    def predict(self, batch: Batch, image_BCHW: Tensor, held: bool = False) -> Tensor:
        """The predictor's logits ``[B, K]``; if ``held``, its weights get no gradient, no statistic moves."""
        tokens, net = self.tokenizer(self.shown(batch, image_BCHW)), Predictor(self.encoder, self.head)
        if not held:
            return net(tokens)  # type: ignore[no-any-return]
        state = {name: x.detach() for name, x in net.named_parameters()}
        state |= {name: x.clone() for name, x in net.named_buffers()}
        return functional_call(net, state, (tokens,))  # type: ignore[no-any-return]

    def detect(self, batch: Batch, image_BCHW: Tensor) -> Tensor:
        """The detector's logits ``[B, K]``, with gradient to the image."""
        assert self.detector is not None
        net: Any = self.detector.module
        logits: Tensor = net.classify(self.shown(batch, image_BCHW))
        return logits

    def shown(self, batch: Batch, image_BCHW: Tensor) -> Batch:
        """A batch with other images."""
        return {**batch, self.tokenizer.key: image_BCHW}

    @staticmethod
    def loss(logits_BK: Tensor, batch: Batch, known: Mask) -> Tensor:
        """Mean cross-entropy of the samples that have a label."""
        return known.mean(F.cross_entropy(logits_BK.float(), batch["label"].clamp(min=0), reduction="none"))

    def classify(self, batch: Batch) -> Tensor:
        """Logits ``[B, K]``, of what is kept of images."""
        return self.predict(batch, self.select(batch)[:, None] * batch[self.tokenizer.key])

    def encode(self, batch: Batch) -> Tokens:
        """The predictor's features of what is kept, which is all that it learned to see."""
        kept = self.shown(batch, self.select(batch)[:, None] * batch[self.tokenizer.key])
        return functional.encode(self.tokenizer, self.encoder, kept)

    @torch.no_grad()
    def explain(self, batch: Batch, step: Step) -> Tensor:
        """The share of each pixel that is kept, float32 ``[B, H, W]``."""
        return self.select(batch)

    @torch.no_grad()
    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        share_BHW, image_BCHW = self.select(batch), batch[self.tokenizer.key]
        grid = tuple(share_BHW.shape[1:])
        places = torch.cartesian_prod(*(torch.arange(n, device=share_BHW.device) for n in grid)).float()
        pixels = Tokens(image_BCHW.flatten(2).transpose(1, 2), places.expand(len(share_BHW), -1, -1), grid)
        return {"removed": MaskView(Mask(1 - share_BHW.flatten(1)), pixels)}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        image_BCHW, share = batch[self.tokenizer.key], self.select(batch)[:, None]
        return Preview(
            {
                "original": image_BCHW,
                "kept, for the predictor": share * image_BCHW,
                "removed, for the detector": (1 - share) * image_BCHW,
            }
        )

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Accuracies on what is kept and what is removed, the mean share, and how much is neither."""
        share_BHW, label_B = self.select(batch), batch["label"]
        image_BCHW, known = batch[self.tokenizer.key], Mask(label_B >= 0)
        found = {
            "kept_accuracy": self.predict(batch, share_BHW[:, None] * image_BCHW, held=True),
            **(
                {}
                if self.detector is None
                else {"removed_accuracy": self.detect(batch, (1 - share_BHW[:, None]) * image_BCHW)}
            ),
        }
        return {
            **{name: known.mean((x.argmax(1) == label_B).float()) for name, x in found.items()},
            "kept_share": share_BHW.mean(),
            "undecided_share": ((share_BHW - 0.5).abs() < 0.4).float().mean(),
        }


class Predictor(nn.Module):
    """A linear classifier of the mean of an encoder's tokens, as one module."""

    def __init__(self, encoder: Any, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits ``[B, K]``."""
        logits: Tensor = self.head(functional.encode_grid(self.encoder, tokens).pool())
        return logits


def classifier_of(folder: str, facts: dict[str, Any], classes: int) -> System:
    """The system of a finished run, if it tells the same classes of images of the same size apart.

    Args:
        folder: of the run.
        facts: of the images, from a tokenizer.
        classes: number of classes.

    Raises:
        UserError: it does not.
    """
    from polymask.run import Run

    found: Any = Run.open(folder).system
    if not hasattr(found, "classify"):
        raise UserError(
            f"{folder} holds {type(found).__name__}, which classifies nothing: give --detector a run of "
            "vision/supervised"
        )
    own = (*(found.tokenizer.provides.get(name) for name in ("size", "channels")), found.head.out_features)
    asked = facts["size"], facts["channels"], classes
    if own != asked:
        raise UserError(
            f"the detector {folder} tells {own[2]} classes of images of {own[0]} in {own[1]} channels apart, "
            f"and here are {classes} of {asked[0]} in {asked[1]}: train it on the same data"
        )
    system: System = found
    return system


def comet(stage: Stage, /, *, preset: str = "small", steps: Count | None = None) -> None:
    """A detector trained on labels, and a selector with its predictor.

    Args:
        stage: trains a run.
        preset: of both stages; the detector is like the predictor.
        steps: of each stage; by default the preset's.
    """
    length = {} if steps is None else {"steps": steps}
    net = {
        name: value
        for name, value in presets.COMET[preset].items()
        if name.partition(".")[0] in ("tokenizer", "encoder")
    }
    like = {"encoder": "vision/resnet", **net, **length}
    detector = stage("detector", "vision/supervised", preset=preset, **like)
    stage("comet", "vision/comet", preset=preset, detector=relative_to_run(detector.folder.name), **length)
