"""Further parts of the page: which images are which, what the paper leaves open, queries, doubts."""

import numpy as np

from experiments.butterfly.answers import gain_interval, seeds_of, stood_still, told, verdict
from experiments.butterfly.config import Config, Target
from experiments.butterfly.images import Data
from experiments.butterfly.learn import steps_of
from experiments.page import markdown, percent
from experiments.study import Read

__all__ = ["INSTEAD", "external_images", "generator_images", "networks", "sections"]

# Stage, suffix of its names, what was done in the generator's place.
INSTEAD = (
    ("instead", "", "tuned on G, as many steps"),
    ("instead", "_longer", "tuned on G, as much work"),
    ("ensemble", "", "shifts averaged"),
    ("ensemble", "_members", "ensemble"),
)


def networks(config: Config) -> str:
    """What the four forms are in this run."""
    if config.size == "paper":
        return "the paper's"
    return (
        f"ResNets of one block a stage (R101: three in the third) and a VGG of {config.width} channels at first, and a "
        f"DenseNet of growth {config.width}, for small images"
    )


def external_images(config: Config) -> str:
    """What encoders learned from."""
    if not config.encoder_images:
        return "ImageNet, by published weights"
    return f"E: {config.encoder_images:,} training images that neither classifier nor generator sees"


def generator_images(config: Config) -> str:
    """What generators learn from."""
    if not config.generator_images:
        return "C, the classifier's own"
    return f"G: {config.generator_images:,} training images that the classifier has not seen"


def sections(config: Config, data: Data, read: Read) -> dict[str, str]:
    """By heading."""
    told = {"Which images are which": _parts(data)}
    if config.mains:
        told["Is it real? (not in the paper)"] = "\n\n".join(_real(config, data, read, each) for each in config.mains)
        told["A discriminator that is told the label (not in the paper)"] = _told(config, read)
        told["Under attack (not in the paper)"] = "\n\n".join(_attacked(config, read, each) for each in config.mains)
    told["Generators of the sweeps and seeds"] = _games(config, read)
    told["Queries"] = _queries(config, data)
    told["Doubts"] = _doubts(config, read)
    return told


def _parts(data: Data) -> str:
    lines = []
    for name, parts in data.parts.items():
        external = "none: published weights" if parts.encoder is None else f"{len(parts.encoder.labels):,}"
        shared = parts.generator is parts.classifier
        counts = [len(each.labels) for each in (parts.classifier, parts.generator, parts.validation, parts.test)]
        own = "C" if shared else f"{counts[1]:,}"
        lines.append((name, external, f"{counts[0]:,}", own, f"{counts[2]:,}", f"{counts[3]:,}"))
    header = ("data", "E: external", "C: classifiers", "G: generators", "V: validation", "T: test")
    return markdown(header, lines) + (
        "\n\nE, C, G and V are disjoint pieces of the training set, drawn by the seed (G is C where it says so); G's "
        "labels are read in training, as targets. Nothing is chosen by V, whose accuracy is drawn by epoch and where "
        "FGSM and the matched UAP get their strength; T is judged once."
    )


def _real(config: Config, data: Data, read: Read, target: Target) -> str:
    game = config.repeated(target)[0]
    base = read(f"vanilla/{target.name}")
    found = read(f"judged/{game.name}")
    lines = [("alone", told(base["right"], base["probability"]), "")]

    def add(name: str, right: np.ndarray, probability: np.ndarray) -> None:
        lines.append((name, told(right, probability), verdict(found["right"], right)))

    lines.append(("with Prop-50, x~ as in the paper", told(found["right"], found["probability"]), ""))
    add("with Prop-50, x~ clipped and on 256 levels", found["right_rounded"], found["probability_rounded"])
    if config.generator_images:
        own = read(f"judged/{game._replace(images='C').name}", "right", "probability")
        add("with Prop-50, trained on C, no labels beside the classifier's own", *own.values())
    for name, form in config.pretrained:
        if name == target.data and form == game.encoder and data.parts[name].encoder is not None:
            alone = read(f"external judged/{name}/{form}", "right", "probability")
            add("the external network itself, in the classifier's place", *alone.values())
    instead = read(f"instead/{target.name}", "views", "steps")
    views, members = int(instead["views"]), int(read(f"ensemble/{target.name}", "members")["members"])
    more = {
        "": f": {int(instead['steps']):,}",
        "_longer": f": {views} times as many",
        "shifts": f": {views}",
        "_members": f": {members} classifiers [A]",
    }
    for stage, suffix, name in INSTEAD:
        answers = read(f"{stage}/{target.name}", f"right{suffix}", f"probability{suffix}")
        add(name + more["shifts" if (stage, suffix) == ("ensemble", "") else suffix], *answers.values())
    mean, low, high = gain_interval(*seeds_of(config, read, target))
    return (
        f"**{target.data}, {target.classifier} [A]**: with Prop-50 {mean:+.1f} points ({low:+.1f} to {high:+.1f}, 95 % "
        f"over {config.seeds} seeds). The classifier has {percent(base['right_known'])} % of C right. A generator and "
        f"one pass of the classifier cost as much as {views} of the classifier (operations, as XLA counts them).\n\n"
    ) + markdown(("seed 0 on T", "accuracy/probability", "than Prop-50"), lines)


def _told(config: Config, read: Read) -> str:
    lines, gains = [], []
    for target in config.mains:
        mean, low, high = gain_interval(*seeds_of(config, read, target, per_label=True))
        gains.append(f"{target.data}, {target.classifier} [A]: {mean:+.1f} points ({low:+.1f} to {high:+.1f})")
    for game in config.told:
        base = read(f"vanilla/{game.target.name}", "right")["right"]
        one, own = (read(f"judged/{each.name}") for each in (game._replace(per_label=False), game))
        sizes = (np.sqrt(each["pixel_square_rounded"].mean(dtype=np.float64)) for each in (one, own))
        lines.append((
            game._replace(per_label=False).name, percent(base, 1),
            *(told(each["right_rounded"], each["probability_rounded"]) for each in (one, own)),
            verdict(base, own["right_rounded"]), verdict(one["right_rounded"], own["right_rounded"]),
            *(f"{size:.3f}" for size in sizes),
        ))  # fmt: skip
    header = (
        "game",
        "alone",
        "the paper's D",
        "D told the label",
        "than alone",
        "than the paper's D",
        "RMS",
        "RMS, told",
    )
    return (
        "Whether the classifier is right depends on the label, of which the paper's D knows nothing: its one linear "
        "layer asks all images to move along one direction of the features. Here D has an output for each label and "
        f"reads that of the image (in training alone; G sees no label in either). Enhancing, 95 % over {config.seeds} "
        f"seeds, x~ as in the paper: {'; '.join(gains)}. On 256 levels:\n\n"
    ) + markdown(header, lines)


def _attacked(config: Config, read: Read, target: Target) -> str:
    found = read(f"attacked/{target.name}")
    lines = [
        (name, *(percent(found[f"{name}_{who}"]) for who in ("alone", "helped", "aware")))
        for name in ("clean", "fgs", "pgd")
    ]
    header = ("attack", "the classifier", "attack, then the generator", "attack through the generator")
    return (
        f"**{target.data}, {target.classifier} [A]**, accuracy in percent:\n\n"
        + markdown(header, lines)
        + (
            f"\n\nlinf {config.epsilon:.3g}, ten steps of PGD, the first {len(found['clean_alone']):,} test images. In "
            "the second column the attacker knows the classifier and not that a generator comes behind (gray box), the "
            "weakest threat that is worth a name; in the third it knows both (white box)."
        )
    )


def _games(config: Config, read: Read) -> str:
    lines = []
    for game in config.games:
        found, courses = read(f"judged/{game.name}"), read(f"game/{game.name}", "l2")["l2"]
        base = read(f"vanilla/{game.target.name}", "right")["right"]
        rms = np.sqrt(found["pixel_square_rounded"].mean(dtype=np.float64))
        lines.append((
            game.name, percent(base, 1), told(found["right"], found["probability"]),
            told(found["right_rounded"], found["probability_rounded"]), f"{courses.max():.3g}",
            f"{found['mean_square'].mean():.3g}", f"{rms:.3f}", f"{found['norm'].mean():.2f}",
            f"{found['pass'].mean():.3f}",
        ))  # fmt: skip
    header = ("game", "alone", "with it", "8 bits", "peak of L2", "L2 on T", "RMS, 8 bits", "norm in pixels", "PASS")
    changed = sum(int(read(f"judged/{game.name}", "changed")["changed"]) for game in config.games)
    return markdown(header, lines) + (
        "\n\nL2 is the mean of v² in the units of the network's input, its peak over epochs; norm is the mean of "
        f"||std v||. In all games together {changed} variables of classifiers and trunks changed in a bit."
    )


def _queries(config: Config, data: Data) -> str:
    lines = []
    for name, parts in data.parts.items():
        steps = steps_of(config, parts.generator)
        asked = 2 * config.batch_size * steps
        validated = config.epochs * len(parts.validation.labels)
        lines.append((name, f"{steps:,}", f"{asked:,}", f"{validated:,}", f"{len(parts.test.labels):,}"))
    header = ("data", "steps", "labels asked in training", "in validation", "in use, once an image of T")
    return markdown(header, lines) + (
        "\n\nOf one generator. Training asks the classifier for two labels an image and step: that of x~, which is the "
        "target, and that of x, which only counts positives and negatives. Where Prop-B is called a black box, it is "
        "decision-based: no gradient and no probability of the classifier, but all of these labels. So are Prop-50 and "
        "Prop-101 in Table 2, whose discriminator has the classifier's form with external weights."
    )


def _doubts(config: Config, read: Read) -> str:
    lines = []
    for game in config.games:
        if count := stood_still(read, game):
            lines.append(
                f"- {game.name}: in {count} of {config.epochs} epochs the discriminator was saturated for all bad "
                "images, so that the generator learned from none of them."
            )
    return "\n".join(lines) or "No generator had a discriminator that was saturated for all bad images of an epoch."
