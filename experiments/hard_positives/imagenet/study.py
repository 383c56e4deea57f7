"""Hot/cold hard positives of photographs for an ImageNet network, and fine-tuning on them (section 5.3 and Fig. 3).

    python -m experiments hard_positives.imagenet --preset quick        # a small network, trained briefly: minutes
    python -m experiments hard_positives.imagenet --preset mobilenet    # Google's MobileNet, Fig. 3 alone: half an hour
    python -m experiments hard_positives.imagenet --preset squeezenet   # a SqueezeNet, Fig. 3 alone: half an hour
    python -m experiments hard_positives.imagenet --preset paper        # GoogLeNet on ImageNet's training set: one GPU

All need `--set images=FOLDER` (or imagenet2012), all but `quick` published weights too (`weights=FILE`). Expected of
`paper`: errors of 30.552 % (top-1) and 10.604 % (top-5) on ImageNet's validation set after fine-tuning. Not measured;
`quick` shows that every step works (README.md).
"""

from typing import Any

import numpy as np

from advjax.evaluate import Share, better_or_worse
from advjax.plots import image_figure, line_figure
from experiments.hard_positives.imagenet import run
from experiments.hard_positives.imagenet.run import COMPARED, PRESETS, Config, Photographs, types
from experiments.page import Page, markdown, percent
from experiments.study import Read, Row, Study

__all__ = ["STUDY"]

NAME = "hard_positives.imagenet"
PASS = "PASS (valid)"
# Fig. 3's captions: the class that BVLC-GoogLeNet and ResNet-152 see in the perturbed goldfish.
_PAPER_FIGURE = {
    "FGS": ("starfish, fails (PASS too low)", "cock"),
    "FGV": ("loggerhead turtle, fails (PASS too low)", "blowfish"),
    "HC-1": ("mud turtle", "bee"),
    "HC-13": ("box turtle", "cock"),
}
SCHEDULE = {
    "network": "BVLC-GoogLeNet (Fig. 3 also ResNet-152)",
    "weights": "BVLC's release",
    "photographs": "ImageNet's training set, 1.28 million, 1000 classes",
    "labels": "ImageNet's",
    "rightly classified": "not stated",
    "attacked": "15 right ones of each class",
    "hot/cold types": "HC-1 to HC-20",
    "cold value": "-h_y (eq. 7)",
    "kept": "PASS > 0.99: about 250,000",
    "SSIM inside PASS": "windows not stated",
    "trained on": "those and 1.28 million center crops",
    "fine-tuning": "500,000 steps of 80",
    "solver": "BVLC's",
}
_SETS = {
    "validation": "validation images, center crops",
    "crops": "other random crops of the attacked photographs (no validation set)",
    "attacked": "the attacked photographs themselves",
    "positives": "the hard positives trained on",
}
_FIGURE_RANK = 13
_MAGNIFIED = 10  # "perturbations are scaled by a factor of 10 with gray=no-change"
_RECORDS = ("kind", "success", "score", "l2", "linf")


def provenance(config: Config) -> str:
    """Where the weights come from, in words that every table and figure carries."""
    if config.weights:
        return f"weights from a file (SHA-256 {config.weights[:12]}...)"
    if config.own_labels:
        return "random weights, never trained: not the paper's; the network's own answers stand in for the labels"
    return f"trained here for {config.base_steps:,} steps on these few photographs: not the paper's weights"


def by_type(config: Config, read: Read) -> dict[str, dict[str, float]]:
    """What each type that was run yields; means are over successes."""
    batches = range(-(-len(read("chosen", "row")["row"]) // config.attack_batch))
    parts = [read(f"attack/{number:05d}", *_RECORDS) for number in batches]
    every, found = {name: np.concatenate([part[name] for part in parts]) for name in _RECORDS}, {}
    for number, name in enumerate(types(config.ranks)):
        own = {column: values[every["kind"] == number] for column, values in every.items()}
        won = own["success"]
        similar = won & (own["score"] > config.threshold)
        means = {column: own[column][won].mean() if won.any() else np.nan for column in ("score", "l2", "linf")}
        if len(won):
            shares = {"success": won.mean(), "similar": similar.mean(), "kept": similar.sum()}
            found[name] = {"count": len(won), **shares, **means}
    return found


def rows(config: Config, data: Photographs, read: Read) -> list[Row]:
    """Every number of the run."""
    lines = []
    for name, own in by_type(config, read).items():
        for metric, value in own.items():
            images = int(own["count"]) if metric in ("success", "similar") else 0
            lines.append(Row(NAME, data.images.name, "base", 0, name, None, metric, images, float(value)))
    for network in config.compared_networks:
        for name, above in read(f"judged/{network}").items():
            for metric, wrong in (("error", above >= 1), ("top-5 error", above >= 5)):
                if len(above):
                    place = f"{data.images.name}/{name}", network, 0, "", None
                    lines.append(Row(NAME, *place, metric, len(above), float(wrong.mean())))
    return lines


def page(config: Config, data: Photographs, read: Read) -> Page:
    """Fig. 3 in numbers, what each type yields, errors before and after, the two schedules."""
    chosen, table = read("chosen"), by_type(config, read)
    kept = int(sum(own["kept"] for name, own in table.items() if name not in COMPARED))
    example, where = name_of(config, data, int(chosen["label"][0])), provenance(config)
    possible, tuned = len(chosen["row"]) * config.ranks, errors_of(config, read)
    trained_on = len(chosen["row"]) if config.own_labels else len(data.images)
    warning = "The run shows that every step works; none of its figures says anything about the paper's."
    return Page(
        note="" if config.weights else f"**{where[0].upper()}{where[1:]}.** {warning}",
        table=f"Fig. 3, four attacks on one photograph ({example}):\n\n{_figure_table(config, data, read)}\n\n({PASS}, "
        "L2 per pixel, L∞ in grey levels; an attack *fails* if the network is not fooled or PASS is not above "
        f"{config.threshold:g}.)",
        paper=SCHEDULE,
        run={
            "network": config.model,
            "weights": where,
            "photographs": f"{data.images.name}: {len(data.images):,} of {sum(map(bool, data.images.classes))} classes",
            "labels": "the network's own answers" if config.own_labels else "the data set's",
            "rightly classified": f"{int(chosen['right'])} of the {int(chosen['read'])} looked at",
            "attacked": f"{len(chosen['row']):,}: at most {config.images_per_class} a class",
            "hot/cold types": f"HC-1 to HC-{config.ranks}",
            "cold value": "-h_y (eq. 7)" if config.cold == "paper" else "-|h_y|, since h_y may be negative",
            "kept": f"PASS > {config.threshold:g}: {kept:,}",
            "SSIM inside PASS": "windows inside the image (valid)",
            "trained on": f"those and {trained_on:,} center crops" if tuned else "nothing",
            "fine-tuning": f"{config.finetune_steps:,} steps of {config.batch_size}"
            if config.finetune_steps
            else "none",
            "solver": f"its quick_solver, rate {config.learning_rate:g}" if config.finetune_steps else "none",
        },
        claims=[],
        findings=[
            f"{kept:,} of {possible:,} hot/cold images ({100 * kept / possible:.1f} %) fool the network with {PASS} > "
            f"{config.threshold:g}; the paper keeps about 250,000 of 300,000 (83 %).",
            *(
                f"{_SETS[name]}: top-1 error {own[0]} % -> {own[2]} % ({verdict}), top-5 {own[1]} % -> {own[3]} %."
                for name, (_, own, verdict) in tuned.items()
            ),
        ],
        summary=[
            f"{config.model}, {where}: {kept:,} hard positives of {len(chosen['row']):,} photographs",
            *(f"{_SETS[name]}: top-1 error {own[0]} % -> {own[2]} %" for name, (_, own, _) in tuned.items()),
        ],
        sections={
            f"What each type yields: {where}": f"{_type_table(table)}\n\nMeans are over successes; {kept:,} HC images "
            "are kept.",
            **({"Fine-tuning on photographs and hard positives, mixed": _tuning_table(tuned)} if tuned else {}),
        },
    )


def errors_of(config: Config, read: Read) -> dict[str, tuple[int, list[str], str]]:
    """By set: how many images, top-1 and top-5 errors before and after fine-tuning, and whether top-1 got better."""
    both = [read(f"judged/{network}") for network in config.compared_networks]
    found = {}
    for name in _SETS if both else ():
        if len(both[0].get(name, ())):
            errors = [percent(own[name] >= top, 3) for own in both for top in (1, 5)]
            verdict = better_or_worse(*(Share.of(each[name] >= 1) for each in both), error=True)
            found[name] = len(both[0][name]), errors, verdict
    return found


def _tuning_table(tuned: dict[str, tuple[int, list[str], str]]) -> str:
    header = ("images", "count", "base: top-1 error %", "top-5 %", "fine-tuned: top-1 error %", "top-5 %")
    return markdown(header, [(_SETS[name], f"{count:,}", *own) for name, (count, own, _) in tuned.items()]) + (
        "\n\nThe paper, BVLC-GoogLeNet on ImageNet's validation set after fine-tuning: 30.552 % (top-1), "
        "10.604 % (top-5)."
    )


def name_of(config: Config, data: Photographs, label: int) -> str:
    """A class in words, as far as there are any: the number a network that learnt nothing gives means nothing."""
    name = data.images.classes[label] if label < len(data.images.classes) else ""
    return f"class {label}" if config.own_labels or not name else name


def captions(config: Config, data: Photographs, read: Read) -> dict[str, tuple[str, str, bool, np.ndarray]]:
    """For each type of Fig. 3: the class, the numbers, whether it is adversarial with PASS enough, and the image."""
    stored, found = read("attack/00000"), {}
    for name in ("FGS", "FGV", "HC-1", f"HC-{min(_FIGURE_RANK, config.ranks)}"):
        kind = types(config.ranks).index(name)
        shown = int(np.flatnonzero(stored["kind"][stored["shown_record"]] == kind)[0])
        place = stored["shown_record"][shown]
        score, l2, linf = (float(stored[key][place]) for key in ("score", "l2", "linf"))
        works = bool(stored["success"][place]) and score > config.threshold
        answer = name_of(config, data, int(stored["prediction"][place]))
        found[name] = (answer, f"({score:.4f}, {l2:.2f}, {linf:.0f})", works, stored["shown"][shown])
    return found


def _figure_table(config: Config, data: Photographs, read: Read) -> str:
    lines = [
        (name, f"{answer} {numbers}" + ("" if works else ", fails"), *_PAPER_FIGURE.get(name, ("", "")))
        for name, (answer, numbers, works, _) in captions(config, data, read).items()
    ]
    paper = "paper, a goldfish: BVLC-GoogLeNet", "paper, a goldfish: ResNet-152"
    return markdown(("type", f"this run: {config.model}", *paper), lines)


def _type_table(table: dict[str, dict[str, float]]) -> str:
    digits = {"count": ",.0f", "success": ".3f", "score": ".4f", "l2": ".2f", "linf": ".1f", "similar": ".3f"}
    lines = [(name, *(f"{own[metric]:{form}}" for metric, form in digits.items())) for name, own in table.items()]
    return markdown(("type", "photographs", "success", PASS, "L2 per pixel", "L∞", "success and PASS enough"), lines)


def figures(config: Config, data: Photographs, read: Read) -> dict[str, Any]:
    """Fig. 3, which alone shows photographs, and what each type yields."""
    chosen, table, where = read("chosen"), by_type(config, read), provenance(config)
    clean = data.images.take(chosen["row"][:1]).in_memory(run.crop_of(config.model)).images[0]
    above, below = [name_of(config, data, int(chosen["label"][0]))], [f"perturbation x{_MAGNIFIED}"]
    shown = {"image": [clean / 255], "perturbation": [np.full(clean.shape, 0.5)]}
    for name, (answer, numbers, works, image) in captions(config, data, read).items():
        shown["image"].append(image / 255)
        shown["perturbation"].append(0.5 + _MAGNIFIED * (image.astype(float) - clean) / 255)
        above.append(f"{name}: {answer}" + ("" if works else "\n(fails)"))
        below.append(numbers)
    title = f"Fig. 3 for {config.model}: ({PASS}, L2 per pixel, L∞)\n{where}"
    names = {"success": "success", "score": f"mean {PASS}", "similar": f"success with {PASS} > {config.threshold:g}"}
    lines = {name: np.array([own[metric] for own in table.values()]) for metric, name in names.items()}
    # One label lower every second word, or they would touch.
    labels = [name.replace("FGV", "\nFGV").replace("HC-", "") for name in table]
    axes: Any = {"xlabel": "attack (numbers: HC-k)", "ylabel": "share, or PASS", "title": f"{config.model}\n{where}"}
    return {
        "fig3.png": image_figure(shown, [above, below], title=title),
        "types.png": line_figure(labels, lines, **axes),
    }


TITLE = "Hard positives at ImageNet's size (Rozsa, Rudd, Boult 2016)"
STUDY = Study(NAME, TITLE, __doc__ or "", PRESETS, run.load, run.stages, run.classifiers, rows, page, figures)
