"""The figures in the experiments' READMEs are those of the files beside them."""

import csv
import pathlib
import re
from statistics import mean, stdev

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


def readme(experiment):
    """The text in one line."""
    return " ".join((EXPERIMENTS / experiment / "README.md").read_text().split())


def metrics(experiment, preset="cpu"):
    with open(EXPERIMENTS / experiment / "results" / preset / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_hard_positives_errors_and_distances():
    text, found = readme("hard_positives"), metrics("hard_positives")
    error = {(row["network"], row["attack"]): 100 * float(row["value"]) for row in found if row["metric"] == "error"}
    l2 = {
        row["attack"]: float(row["value"]) for row in found if row["metric"] == "l2_per_pixel" if "train" in row["data"]
    }
    rows = {name for name, _ in error}
    assert len(rows) == 12
    for name in rows:
        assert f"| {name} | {error[name, '']:.3f} | {error[name, 'all']:.2f} |" in text, name
    saved = [100 * (1 - error["HC-D-9-1.05", ""] / error[name, ""]) for name in ("Basic LeNet", "FGS")]
    assert f"has {saved[0]:.2f} % less clean error than the base network" in text
    assert f"{saved[1]:.2f} % less than FGS" in text
    # Mean L2 a pixel of the independent implementation: ANCHORS in test_mnist_anchors.py.
    for kind, anchor in {"FGS": 30.5, "FGV": 18.9, "HC-1": 18.8, "HC-5": 21.3, "HC-9": 23.6}.items():
        off = 100 * (l2[kind] / anchor - 1)
        assert f"{abs(off):.1f} % {'lower' if off < 0 else 'higher'} for {kind}" in text, kind


def test_hard_positives_with_three_networks_a_row():
    text, found = readme("hard_positives"), metrics("hard_positives", "cpu3")
    errors = {}
    for row in found:
        if row["metric"] == "error" and row["attack"] in ("", "all"):
            errors.setdefault((row["network"], row["attack"]), []).append(100 * float(row["value"]))
    rows = {name for name, _ in errors}
    assert len(rows) == 8
    for name in rows:
        clean, attacked = errors[name, ""], errors[name, "all"]
        assert len(clean) == len(attacked) == 3
        cells = f"{mean(clean):.3f} ± {stdev(clean):.3f} | {mean(attacked):.2f} ± {stdev(attacked):.2f}"
        assert f"| {name} | {cells} |" in text, name
    best = mean(errors["HC-D-9-1.05", ""])
    assert f"{100 * (1 - best / mean(errors['Basic LeNet', ''])):.2f} % less clean error than the base (" in text
    assert f"{100 * (best / mean(errors['FGS', '']) - 1):.2f} % more than FGS" in text


def test_hard_positives_of_caffes_own_lenet():
    text = readme("hard_positives")
    found = [row for row in metrics("hard_positives", "figures") if row["network"] == "Basic LeNet"]
    value = {(row["data"], row["attack"], row["metric"]): float(row["value"]) for row in found}
    assert f"{100 * value['mnist/test', '', 'error']:.2f} % of the test set wrong" in text
    least = min(number for (_, _, metric), number in value.items() if metric == "success")
    assert f"at least {100 * least:.2f} % of the digits" in text
    for kind in ("FGS", "FGV", "HC-1", "HC-5", "HC-9", "HC-S-1"):
        cells = (
            f"{value[f'mnist/{split}', kind, metric]:.{digits}f}"
            for metric, digits in (("l2_per_pixel", 1), ("pass_valid", 3))
            for split in ("train", "heldout")
        )
        assert f"| {kind} | {' | '.join(cells)} |" in text, kind


def test_hard_positives_of_photographs():
    text = readme("hard_positives")
    value = {(r["attack"], r["metric"]): float(r["value"]) for r in metrics("hard_positives/imagenet", "quick")}
    types = ("FGS", "FGV", "HC-1", "HC-13", "HC-20")
    rows = {"PASS (valid)": ("score", 3), "L2 per pixel": ("l2", 2), "L∞": ("linf", 1)}
    for title, (metric, digits) in rows.items():
        assert f"| {title} | {' | '.join(f'{value[kind, metric]:.{digits}f}' for kind in types)} |" in text
    similar = [f"{value[kind, 'similar']:.3f}" for kind in types]
    assert f"| success and PASS > 0.99 | {' | '.join(similar)} |" in text
    kept = sum(value[f"HC-{rank}", "kept"] for rank in range(1, 21))
    assert f"{kept:.0f} of 480 HC images ({100 * kept / 480:.0f} %) have PASS > 0.99" in text


@pytest.mark.parametrize("network", ["mobilenet", "squeezenet"])
def test_hard_positives_of_photographs_by_a_network_that_knows_them(network):
    text = readme("hard_positives")
    value = {(r["attack"], r["metric"]): float(r["value"]) for r in metrics("hard_positives/imagenet", network)}
    types, asked = ("FGS", "FGV", "HC-1", "HC-13", "HC-20"), value["FGS", "count"]
    assert asked >= 200
    rows = {"PASS (valid)": ("score", 4), "L2 per pixel": ("l2", 2), "L∞": ("linf", 1)}
    rows |= {f"success, of {asked:.0f} photographs": ("success", 3), "success and PASS > 0.99": ("similar", 3)}
    for title, (metric, digits) in rows.items():
        assert f"| {title} | {' | '.join(f'{value[kind, metric]:.{digits}f}' for kind in types)} |" in text, title
    kept = sum(value[f"HC-{rank}", "kept"] for rank in range(1, 21))
    shares = f"{kept:,.0f} of {20 * asked:,.0f} HC images ({100 * kept / (20 * asked):.1f} %) have PASS > 0.99"
    assert shares in text


def test_robust_optimization_accuracies():
    text = readme("robust_optimization")
    found = metrics("robust_optimization")
    value = {(row["network"], row["attack"], row["metric"]): float(row["value"]) for row in found}
    for name in ("baseline", "l1", "l2", "linf"):
        own = name if name == "baseline" else f"robust {name}"
        test, on_set, pgd = (100 * value[own, attack, "accuracy"] for attack in ("", "A", "pgd-20"))
        assert re.search(rf"\| {own} \| [\d.]+ \| [\d.]+ \| {test:.2f} \| {on_set:.2f} \| {pgd:.1f} \|", text) or (
            name == "baseline" and f"| {test:.2f} | 0 | {pgd:.1f} |" in text
        ), name
    counts = [int(value["baseline", f"A {norm}", "images"]) for norm in ("l1", "l2", "linf")]
    assert f"{sum(counts):,} (l1 {counts[0]}, l2 {counts[1]}, linf {counts[2]})" in text


@pytest.mark.parametrize("model", ["natural", "standard", "background", "exact", "broad"])
def test_localized_training_losses_and_accuracies(model):
    text = readme("localized_training")
    rows = [row for row in metrics("localized_training") if row["network"] == model]
    own, strong = [row for row in rows if "200" not in row["data"]], [row for row in rows if "200" in row["data"]]
    losses = [float(row["value"]) for row in own if row["metric"] == "loss"]
    shown = [f"{number:.4g}" for number in (1000 * losses[0], *losses[1:])]
    assert re.search(rf"\| {model} \| " + " ".join(rf"{re.escape(number)} \([\d.]+\) \|" for number in shown), text)
    accuracies = [f"{100 * float(row['value']):.2f}" for row in own if row["metric"] == "accuracy"]
    assert f"| {model} | {' | '.join(accuracies)} |" in text
    shown = [f"{100 * float(row['value']):.1f}" for row in strong]
    assert not shown or f"| {model} | {' | '.join(shown)} |" in text


def test_butterfly_accuracies_with_and_without_generators():
    text = readme("butterfly")
    value = {
        (row["network"], row["member"], row["attack"]): 100 * float(row["value"])
        for row in metrics("butterfly", "quick")
        if row["metric"] == "accuracy"
    }
    enhancing = "enhancing Prop-50-ls gamma 0.0001"
    alone, helped = (sum(value["R50 A", str(seed), attack] for seed in range(3)) / 3 for attack in ("", enhancing))
    assert f"{alone:.1f} % of the test set right alone and {helped:.1f} % with their generators" in text
    told, rounded = (
        [value["R50 A", f"{seed}", f"{enhancing}, D told the label{end}"] for seed in range(3)]
        for end in ("", ", 8 bits")
    )
    assert f"{mean(told):.1f} % with the same three classifiers" in text
    assert f"{mean(told) - alone:+.1f} points (95 % +" in text
    assert f"{mean(rounded):.1f} % on 256 levels. The generator" in text
    for attack, told in {
        "": "the classifier alone",
        "tuned on G, as many steps": "tuned on G, as many steps",
        "ensemble": "an ensemble at the generator's forward cost",
        f"{enhancing} on C": "a generator trained on C, of which the classifier has all right already",
        f"{enhancing}, D told the label": "a generator whose discriminator is told the label",
    }.items():
        assert f"| {told} | {value['R50 A', '0', attack]:.1f} |" in text, told
    assert f"| the external network itself | {value['external R50', '0', '']:.1f} |" in text
    adversarial = [value["R50 B", "0", attack] for attack in ("", "adversarial Prop-50-ls gamma 3")]
    assert f"falls from {adversarial[0]:.1f} to {adversarial[1]:.1f} % with Prop-50" in text
    fgsm, universal = (value["R50 B", "0", attack] for attack in ("EHA", "UAP matched"))
    assert f"FGSM leaves {fgsm:.1f} % and a universal perturbation {universal:.1f} %" in text


def test_butterfly_on_a_gpu():
    text = readme("butterfly")
    value = {
        (row["member"], row["attack"]): 100 * float(row["value"])
        for row in metrics("butterfly", "gpu")
        if row["metric"] == "accuracy" and row["network"] == "R50 A"
    }
    own = "enhancing Prop-50-ls gamma 0.0001"
    attacks = ("", own, f"{own}, D told the label", f"{own}, D told the label, 8 bits")
    alone, paper, told, rounded = ([value[f"{seed}", attack] for seed in range(3)] for attack in attacks)
    assert f"have {mean(alone):.1f} % of the test set right alone, **{mean(paper):.1f} % with the paper's" in text
    assert f"{mean(told):.1f} % with one that is told the label** ({mean(told) - mean(alone):+.1f} points" in text
    first, second, third = (after - before for after, before in zip(told, alone, strict=True))
    assert f"each of the three gains, by {first:.1f}, {second:.1f} and {third:.1f} points" in text
    assert f"256 levels leave {mean(rounded):.1f} %" in text


def _accuracies(preset, attack=""):
    """By network, in percent, those of its seeds on the test set, in order."""
    found = {}
    for row in metrics("random_sign", preset):
        if f"{row['attack']} {row['epsilon']}".strip() == attack and "held out" not in row["data"]:
            found.setdefault(row["network"].split("/")[1], []).append(100 * float(row["value"]))
    return found


def test_random_sign_errors_on_mnist():
    text = readme("random_sign")
    standardized, pixels = ({name: [100 - each for each in of] for name, of in _accuracies(preset).items()}
                            for preset in ("cpu", "cpu-pixels"))  # fmt: skip
    rows = {
        "base": ("LeNet", "0.50"),
        "FGSM-": ("FGSM-LeNet", "0.60"),
        "R-, signs at the input": ("R-LeNet input", "0.28"),
    }
    rows |= {"R-, hidden": ("R-LeNet hidden", "0.28"), "R-, both": ("R-LeNet both", "0.28")}
    for told, (name, paper) in rows.items():
        cells = []
        for errors in (standardized[name], pixels[name]):
            assert len(errors) == 5
            half = 2.776445 * stdev(errors) / 5**0.5  # Student's t of four degrees of freedom, 97.5 %
            middle = mean(errors)
            cells.append(f"{middle:.2f} ± {stdev(errors):.2f} [{middle - half:.2f}, {middle + half:.2f}]")
        assert f"| {told} | {paper} | {' | '.join(cells)} |" in text, told
    attacked = _accuracies("cpu", "pgd-40 0.1")
    base, both, fgsm = (mean(attacked[name]) for name in ("LeNet", "R-LeNet both", "FGSM-LeNet"))
    on_pixels = [mean(_accuracies("cpu-pixels", "pgd-40 0.1")[name]) for name in ("LeNet", "R-LeNet both")]
    assert f"leaves {base:.1f} % of the base and {both:.1f} % of the network with signs in both places" in text
    assert f"(on pixels {on_pixels[0]:.1f} and {on_pixels[1]:.1f} %), and {fgsm:.1f} % of the one trained" in text
    for preset in ("cpu", "cpu-pixels"):
        assert {accuracy for of in _accuracies(preset, "apgd 0.3").values() for accuracy in of} == {0}
    capsules = [100 - of[0] for of in _accuracies("cpu-capsules").values()]
    assert "base {:.2f}, FGSM- {:.2f}, R- {:.2f} %".format(*capsules) in text


def test_random_sign_epsilon_on_held_out_images():
    found = {}
    for row in metrics("random_sign", "cpu"):
        if "held out" in row["data"]:
            found.setdefault((row["network"], row["epsilon"]), []).append(100 - 100 * float(row["value"]))
    assert len(found) == 13
    base = mean(found.pop(next(key for key in found if key[0].endswith("base"))))
    least, most = min(map(mean, found.values())), max(map(mean, found.values()))
    told = f"{least:.2f} to {most:.2f} % between 0.01 and 0.2 in all places, {base:.2f} % without"
    assert told in readme("random_sign")


def test_random_sign_errors_on_cifar10():
    text = readme("random_sign")

    def three(attack=""):
        runs = [_accuracies(f"cpu-cifar10{seed}", attack) for seed in ("", "/seed1", "/seed2")]
        return {name: [run[name][0] for run in runs] for name in runs[0]}

    clean = three()
    attacked = [three(attack) for attack in ("pgd-40 0.00392", "pgd-40 0.00784", "apgd 0.0314")]
    rows = {"base": "ResNet-20", "FGSM- (8/255)": "FGSM-ResNet-20", "R-, both": "R-ResNet-20 both"}
    for told, name in rows.items():
        right = " | ".join(f"{mean(each[name]):.1f}" for each in attacked)
        assert f"| {told} | {100 - mean(clean[name]):.2f} ± {stdev(clean[name]):.2f} | {right} |" in text, told
    lost = [one - other for one, other in zip(clean["ResNet-20"], clean["R-ResNet-20 both"], strict=True)]
    half = 4.302653 * stdev(lost) / 3**0.5  # two degrees of freedom
    interval = f"{mean(lost) - half:.2f} to {mean(lost) + half:.2f}"
    assert f"{mean(lost):.2f} points in the mean (95 % interval {interval})" in text
    assert f"costs {mean(clean['ResNet-20']) - mean(clean['FGSM-ResNet-20']):.1f} points" in text
