"""Cards and tables: everything that config.json holds must be there, and nothing else can be."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from lightning.pytorch import LightningDataModule

import zoo.data
from zoo.classes import dataset_title
from zoo.commands import sharing
from zoo.errors import ZooError
from zoo.hub import card, finding, limits, tables
from zoo.hub.config import read_config, write_config
from zoo.hub.reading import pictures_in
from zoo.references import headline
from zoo.results import Result

TOP = Path(__file__).resolve().parents[2]
RESULT = {
    "metric": "bits_per_dim",
    "kind": "exact",
    "value": 3.0612345,
    "standard_error": 0.0061,
    "n": 10000,
    "split": "test",
    "dataset": "CIFAR10",
    "protocol": "256 levels",
    "limit": False,
}
CONFIG = {
    "format": 1,
    "class_path": "zoo.autoregressive.PixelCNN",
    "init_args": {"shape": [3, 32, 32], "levels": 256},
    "data": {"class_path": "zoo.data.CIFAR10", "init_args": {}},
    "recipe": "pixelcnn-cifar10",
    "training": {
        "hardware": "2 x Abacus",
        "minutes": 17.5,
        "steps": 40000,
        "images": 10000000,
        "images_per_second": 9900.4,
        "precision": "bf16-mixed",
        "torch": "2.11.0",
        "lightning": "2.6.6",
    },
    "reference": {"metric": "bits_per_dim", "value": 3.14, "source": "Somebody 2016, Table 3"},
    "weights": {"dtype": "float16", "parameters": 7654321, "sha256": {"model.safetensors": "ab" * 32}},
    "results": [RESULT],
    "notes": ["Two devices make 1.9 times the images\nof one."],
}


def changed(**fields):
    return {**copy.deepcopy(CONFIG), **fields}


def body(text):
    return text.split("\n---\n", 1)[1]


def test_the_hub_reads_the_numbers_back():
    bound = {**RESULT, "metric": "fid", "kind": "estimate", "value": 12.5, "standard_error": None}
    data = ModelCard(card.render(changed(results=[RESULT, bound]))).data
    assert (data.license, data.library_name) == ("mit", "generative-zoo")
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.datasets == ["uoft-cs/cifar10"]
    assert {"autoregressive", "pixelcnn"} <= set(data.tags)
    assert data.model_name == "pixelcnn-cifar10"
    first, second = data.eval_results
    assert (first.metric_type, first.metric_value) == ("bits_per_dim", RESULT["value"])
    assert (first.dataset_type, first.dataset_name, first.dataset_split) == (
        "uoft-cs/cifar10",
        "CIFAR-10",
        "test",
    )
    assert first.metric_args == {key: RESULT[key] for key in ("kind", "standard_error", "n", "protocol")}
    assert (second.metric_type, second.metric_value, second.metric_args["kind"]) == ("fid", 12.5, "estimate")


def test_a_card_says_which_weights_a_run_started_from():
    start = {"name": "pixelcnn-first", "sha256": {"model.safetensors": "cd" * 32}, "training": CONFIG["training"]}
    second = {**CONFIG["training"], "hardware": "1 x Slate", "minutes": 4.0}
    config = changed(training={**second, "from": start})
    text = card.render(config, "pixelcnn-cifar10")
    assert f"- started from: the weights of pixelcnn-first, of SHA-256 {'cd' * 32}\n" in text
    assert "- training of those weights: 17.5 min, 2 x Abacus, 40,000 steps, 10,000,000 images\n" in text
    assert "17.5 min, 2 x Abacus, then 4.0 min, 1 x Slate |" in tables.results_table({"pixelcnn-cifar10": config})
    for odd in (
        "text",
        3,
        [],
        {"training": "text"},
        {"training": {"minutes": "x", "hardware": 3}},
        {"sha256": "text", "training": {"steps": "many"}},
    ):
        assert "# pixelcnn-cifar10" in card.render(changed(training={**second, "from": odd}), "pixelcnn-cifar10")


def test_a_card_without_results_has_valid_metadata():
    config = changed(results=[], reference=None, training=None, data=None, recipe=None, notes=[])
    text = card.render(config, "somebody/pixelcnn-mine")
    assert ModelCard(text).data.eval_results is None
    assert "model-index" not in yaml.safe_load(text.split("---\n")[1])
    assert 'zoo.load("somebody/pixelcnn-mine")' in text
    assert body(text).lstrip().startswith("# pixelcnn-mine\n")
    for gone in ("## Training", "## Notes", "--from", "paper"):
        assert gone not in text
    assert "## Weights" in text


def test_everything_is_stated():
    text = body(card.render(CONFIG))
    for stated in (
        "# pixelcnn-cifar10\n",
        "7,654,321 parameters",
        "trained on CIFAR-10",
        "![samples](samples.png)",
        'zoo.load("pixelcnn-cifar10")',
        "model.sample(16, seed=0)",
        "| bits/dim | 3.061 ± 0.006 | exact | CIFAR-10 | test | 10,000 | 256 levels |",
        "3.14 bits/dim: Somebody 2016, Table 3",
        "Better by 0.079",
        "zoo evaluate pixelcnn-cifar10",
        "lightning fit --config recipes/pixelcnn-cifar10.yaml",
        "2 x Abacus",
        "17.5 minutes",
        "40,000",
        "10,000,000",
        "9,900 images/s",
        "bf16-mixed",
        "2.11.0",
        "15.3 MB",
        "ab" * 32,
        "- Two devices make 1.9 times the images of one.",
    ):
        assert stated in text
    assert "${" not in text


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (3.14, "Reached exactly"),
        (3.0, "Better by 0.14"),
        (3.16, "Missed by 0.02"),
        (3.1404, "Missed by 0.0004"),
        (4.5, "Missed by 1.4"),
    ],
)
def test_a_miss_is_stated_as_a_miss(value, verdict):
    config = changed(results=[{**RESULT, "value": value}])
    assert f"{verdict}: " in card.render(config)
    table = tables.results_table({"pixelcnn-cifar10": config})
    assert (verdict.lower() in table) == verdict.startswith("Missed")


def test_a_part_of_the_split_is_no_result():
    part = {**RESULT, "limit": True, "n": 500, "value": 1.0}
    config = changed(results=[part])
    text = card.render(config)
    assert "| test (part) | 500 |" in text
    assert "not been measured here yet" in text
    assert "Better" not in text
    assert "model-index" not in text
    assert headline(config) is None
    assert headline(changed(results=[part, RESULT])) == Result.from_config(RESULT)


def test_a_bound_is_shown_as_one():
    text = card.render(changed(results=[{**RESULT, "kind": "upper"}]))
    assert "| bits/dim | ≤ 3.061 ± 0.006 | upper |" in text


def test_draws_and_their_spread_are_stated():
    drawn = {**RESULT, "kind": "upper", "protocol": "256 levels; 8 draws", "samples": 8, "spread": 0.000123}
    text = card.render(changed(results=[drawn]))
    assert "| 256 levels; 8 draws; standard deviation over draws 0.00012 |" in text
    (read,) = ModelCard(text).data.eval_results
    assert read.metric_args["spread"] == 0.000123


LOST = {**RESULT, "metric": "not_reconstructed", "kind": "count", "value": 0, "standard_error": None}


def test_a_count_is_stated_with_what_it_is_out_of():
    config = changed(results=[RESULT, LOST], reference=None)
    text = card.render(config)
    assert "| not reconstructed | 0 of 10,000 | count | CIFAR-10 | test | 10,000 |" in text
    assert "1,234 of 10,000 |" in card.render(changed(results=[{**LOST, "value": 1234}]))
    assert headline(config) == Result.from_config(RESULT)
    assert ModelCard(text).data.eval_results[1].metric_value == 0


KL = {**RESULT, "metric": "kl", "kind": "quadrature", "value": 0.0123, "standard_error": None, "split": None, "n": 64}
POINTS = {"class_path": "zoo.data.Points", "init_args": {"name": "energy1"}}
TARGET = {"metric": "kl", "value": 0.02, "source": "the paper has figures alone", "whose": "target"}


def test_a_number_of_the_model_alone_has_no_split():
    nats = {**RESULT, "metric": "nats", "dataset": "Points"}
    config = changed(results=[nats, {**KL, "dataset": "Points"}], data=POINTS, reference=TARGET)
    text = card.render(config)
    assert r"| nats of KL(q \|\| p) | 0.0123 | quadrature | points | - | 64 |" in text
    first, second = ModelCard(text).data.eval_results
    assert (first.dataset_split, second.dataset_split) == ("test", None)
    assert (second.metric_type, second.metric_value) == ("kl", 0.0123)
    assert headline(config).metric.name == "kl"


@pytest.mark.parametrize(
    ("reference", "cell", "sentence"),
    [
        (
            TARGET,
            "target 0.02",
            "The target is 0.02 nats of KL(q || p): the paper has figures alone. Better by 0.0077",
        ),
        ({**TARGET, "value": 0.01}, "target 0.01", "The target is 0.01 nats of KL(q || p)"),
        ({**TARGET, "whose": "paper"}, "0.02", "The paper's number is 0.02 nats of KL(q || p)"),
        (None, "-", "No number is known to hold these against."),
    ],
)
def test_a_target_is_no_number_of_a_paper(reference, cell, sentence):
    config = changed(results=[KL], data=POINTS, reference=reference)
    assert sentence in card.render(config)
    header, row = tables.table({"planar-energy1": config})
    missed = " (missed by 0.0023)" if cell == "target 0.01" else ""
    assert row[header.index("reference")] == cell + missed
    assert f"| 0.0123 | {cell}{missed} |" in tables.results_table({"planar-energy1": config})
    header, row = tables.likelihoods({"planar-energy1": config}, "points")
    assert row[header.index("reference")] == cell


def test_a_reference_in_another_metric_is_not_set_beside_a_result():
    config = changed(results=[RESULT], reference=TARGET)
    header, row = tables.table({"pixelcnn-cifar10": config})
    assert (row[header.index("ours")], row[header.index("reference")]) == ("3.061 ± 0.006", "-")
    assert "It has not been measured here yet." in card.render(config)


def test_no_number_in_the_paper():
    assert "No number is known to hold these against." in card.render(changed(reference=None))


def of(*results, **changes):
    """The result that stands for a checkpoint with these."""
    return headline(changed(results=list(results), **changes))


def test_headline_prefers_the_papers_metric_and_exact_over_bound():
    bound, fid = {**RESULT, "kind": "upper"}, {**RESULT, "metric": "fid", "kind": "estimate"}
    assert of(fid, bound, RESULT) == Result.from_config(RESULT)
    assert of(fid, bound) == Result.from_config(bound)
    tighter = {**bound, "value": bound["value"] - 0.1, "samples": 100}
    assert of(bound, tighter) == Result.from_config(tighter)
    lucky = {**tighter, "value": tighter["value"] - 0.001, "samples": 1}
    assert of(lucky, tighter) == Result.from_config(tighter)
    reference = {**CONFIG["reference"], "metric": "fid"}
    assert of(RESULT, fid, reference=reference) == Result.from_config(fid)
    assert headline(changed(results=[])) is None
    kid = {**fid, "metric": "kid", "value": fid["value"] / 1000}
    assert of(kid, fid, reference=None) == Result.from_config(fid), "no smaller number, but the usual one"


def test_names():
    assert card.default_name(CONFIG) == "pixelcnn-cifar10"
    data = {"class_path": "zoo.data.FashionMNIST", "init_args": {"binarized": False}}
    assert card.default_name(changed(recipe=None, data=data)) == "pixelcnn-fashion-mnist"
    for name in zoo.data.__all__:
        title = getattr(getattr(zoo.data, name), "title", None)
        if title:
            assert dataset_title(name) == title


# Whose licence the zoo cannot know, or which are drawn by a formula; the other two are no data yet.
ANYBODYS = {"HubDataset", "ImageFolder", "Table", "Points", "ImageData", "TensorData"}


def data_sets() -> list[str]:
    """The names of the data sets whose data are the same for everybody."""
    classes = {name: getattr(zoo.data, name) for name in zoo.data.__all__}
    return [name for name, cls in classes.items() if issubclass(cls, LightningDataModule) and name not in ANYBODYS]


@pytest.mark.parametrize("name", data_sets())
def test_each_card_says_what_is_known_of_the_licence_of_its_data(name):
    text = body(card.render(changed(data=getattr(zoo.data, name)().config)))
    (said,) = re.findall(rf"^- Licence of the training data \({dataset_title(name)}\): (.+)\.$", text, re.MULTILINE)
    assert said == limits.LICENCES[name] != "unknown"


def test_whose_data_have_no_licence_says_so_and_what_follows():
    for model in ("zoo.adversarial.GAN", "zoo.autoregressive.PixelCNN"):
        text = body(card.render(changed(class_path=model, data=zoo.data.AnimeFaces().config)))
        assert "\n- Licence of the training data (anime faces): the data state none.\n" in text
        assert "without a word on who drew them" in text
    spec = {"kind": "image", "shape": [3, 64, 64], "levels": 256, "classes": 0, "condition": None}
    text = card.render(changed(spec=spec, data=zoo.data.AnimeFaces().config))
    assert "data = AnimeFaces()  # reads it from ZOO_DATA\n" in text, "there is nothing to download"
    assert "Licence of the training data (mine): unknown." in card.render(
        changed(data={"class_path": "zoo.data.ImageFolder", "init_args": {}, "title": "mine"})
    )


def test_whatever_text_a_config_holds_the_front_matter_stays_yaml():
    text = "a: b\n---\n# title | <!-- ${name} \"quoted\" 'too' ${oops}"
    config = changed(results=[{**RESULT, "protocol": text}], notes=[text], training={"hardware": text})
    assert ModelCard(card.render(config)).data.eval_results[0].metric_args["protocol"] == text
    assert card.render(changed(training={"minutes": "long", "steps": [1]})).count("long") == 1


def test_template_is_found_beside_the_package_or_inside_it(monkeypatch, tmp_path):
    package = tmp_path / "site" / "zoo"
    package.mkdir(parents=True)
    monkeypatch.setattr(card, "__file__", str(package / "hub" / "card.py"))
    with pytest.raises(ZooError, match=r"MODEL_CARD_TEMPLATE\.md.*neither"):
        card.render(CONFIG)
    (package / "MODEL_CARD_TEMPLATE.md").write_text("# ${name}\n\nParts: ${notes}\n")
    assert body(card.render(changed(notes=[]))).strip() == "# pixelcnn-cifar10"
    (package.parent / "MODEL_CARD_TEMPLATE.md").write_text("${nme}")
    with pytest.raises(ZooError, match=r"asks for \$\{nme\}; it may use name"):
        card.render(CONFIG)


def test_the_table_has_a_row_for_each_checkpoint():
    small = changed(
        results=[],
        reference=None,
        training=None,
        weights={**CONFIG["weights"], "parameters": 3000, "dtype": "float32"},
    )
    configs = {"pixelcnn-cifar10": CONFIG, "pixelcnn-pipe": small}
    header, rule, first, second = tables.results_table(configs).splitlines()
    assert header == "| name | family | data | metric | ours | reference | size | training |"
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in (header, rule, first, second)}) == 1
    for cell in (
        "[`pixelcnn-cifar10`](checkpoints/pixelcnn-cifar10/README.md)",
        "autoregressive",
        "CIFAR-10",
        "bits/dim, exact",
        "3.061 ± 0.006",
        "3.14",
        "15.3 MB",
        "17.5 min, 2 x Abacus",
    ):
        assert f"| {cell} |" in first
    assert "| - | - | - | 12 kB | - |" in second


def test_likelihoods_of_one_data_set_are_ranked_by_their_references():
    reference = CONFIG["reference"]
    configs = {
        "a-cifar10": changed(reference={**reference, "value": 2.92}),
        "b-cifar10": changed(reference={**reference, "value": 8.0}, results=[{**RESULT, "kind": "upper"}]),
        "c-cifar10": changed(reference=None),
        "d-cifar10": changed(results=[]),
        "e-mnist": changed(data={"class_path": "zoo.data.MNIST", "init_args": {}}),
        "f-cifar10": changed(results=[{**RESULT, "metric": "fid", "kind": "samples"}]),
    }
    assert tables.likelihoods(configs, "cifar10") == [
        ("name", "reference", "ours", "unit", "kind"),
        ("b-cifar10", "8", "≤ 3.061 ± 0.006", "bits/dim", "upper"),
        ("a-cifar10", "2.92", "3.061 ± 0.006", "bits/dim", "exact"),
        ("c-cifar10", "-", "3.061 ± 0.006", "bits/dim", "exact"),
    ]
    assert tables.likelihoods(configs, "CIFAR-10") == tables.likelihoods(configs, "cifar10")
    assert [row[0] for row in tables.likelihoods(configs, "mnist")] == ["name", "e-mnist"]
    with pytest.raises(ZooError, match="No checkpoint has a number on 'svhn'; there are numbers on: cifar10, mnist"):
        tables.likelihoods(configs, "svhn")


def test_numbers_of_two_binarizations_are_not_ranked_among_each_other():
    data = {"class_path": "zoo.data.MNIST", "init_args": {"binarized": True}}
    nats = {**RESULT, "metric": "nats", "dataset": "MNIST", "value": 80.0, "protocol": "binarized once by sampling"}
    fixed = {**nats, "protocol": "Larochelle's fixed binarization"}
    reference = {"metric": "nats", "source": "s", "kind": "exact"}
    theirs = {"a": (79.0, "fixed binarization"), "b": (81.0, "dynamic binarization"), "c": (78.0, "fixed binarization")}
    configs = {
        f"{name}-mnist": changed(
            data=data, results=[nats], reference={**reference, "value": value, "protocol": protocol}
        )
        for name, (value, protocol) in theirs.items()
    }
    configs["d-mnist"] = changed(data=data, results=[fixed], reference={**reference, "value": 90.0})
    header, *rows = tables.likelihoods(configs, "mnist")
    assert header == ("name", "reference", "its binarization", "ours", "binarization", "unit", "kind")
    assert [(row[0], row[2], row[4]) for row in rows] == [
        ("b-mnist", "dynamic", "dynamic"),
        ("a-mnist", "fixed", "dynamic"),
        ("c-mnist", "fixed", "dynamic"),
        ("d-mnist", "-", "fixed"),
    ]
    text = card.render(configs["a-mnist"])
    assert "The paper's number is 79 nats, an exact number, fixed binarization: s." in text
    assert "Not compared, for ours is of dynamic binarization: 80.00 ± 0.01 nats (exact) here." in text
    assert "79 (not compared)" in tables.results_table(configs)
    assert "Better by 1: 80.00" in card.render(configs["b-mnist"])


def test_distances_of_other_numbers_of_samples_are_not_compared():
    fid = {**RESULT, "metric": "fid", "kind": "samples", "protocol": "256 levels; 50,000 against 50,000 images"}
    reference = {"metric": "fid", "value": 40.0, "source": "s", "kind": "samples"}
    for protocol, said in (
        ("25,000 against 10,000 images", "Not compared, for it is of 25,000 against 10,000 images: 3.06"),
        ("50,000 against 50,000 images", "Better by 37: 3.06"),
    ):
        config = changed(results=[fid], reference={**reference, "protocol": protocol})
        assert f"The paper's number is 40 FID, a distance of samples, {protocol}: s. {said}" in card.render(config)


def test_a_card_says_whose_number_it_is_and_the_best():
    best = {"value": 2.5, "source": "Others 2020"}
    for whose, noun, cell in (
        ("paper", "The paper's number is 3.14 bits/dim", "3.14"),
        ("reported", "A reported number is 3.14 bits/dim", "3.14 (reported)"),
        ("other", "Another model's number is 3.14 bits/dim", "3.14 (another model) (not compared)"),
        ("target", "The target is 3.14 bits/dim", "target 3.14"),
    ):
        config = changed(reference={**CONFIG["reference"], "whose": whose, "best": best})
        text = card.render(config)
        assert noun in text
        assert "The best reported is 2.5 (Others 2020)." in text
        assert tables.table({"pixelcnn-cifar10": config})[1][5] == cell


def test_bounds_stand_beside_bounds_and_estimates_beside_estimates():
    bound = {**RESULT, "kind": "upper", "value": 84.2}
    weighted = {**bound, "value": 81.2, "samples": 500, "protocol": "256 levels; 500 samples an image"}
    plain = {**CONFIG["reference"], "value": 85.1, "kind": "upper"}
    config = changed(results=[weighted, bound], reference=plain)
    assert headline(config).value == 84.2
    text = card.render(config)
    assert "Better by 0.9: ≤ 84.200" in text
    assert "Not compared, for ours is an upper bound of 500 draws: ≤ 81.200" in text
    estimate = changed(results=[weighted, bound], reference={**plain, "kind": "estimate", "samples": 128})
    assert headline(estimate).value == 81.2
    assert "Not compared, for ours is an upper bound: ≤ 84.200" in card.render(estimate)
    dequantized = {**bound, "value": 84.1, "samples": 8, "spread": 0.01, "protocol": "256 levels, 8 draws"}
    text = card.render(changed(results=[dequantized], reference=plain))
    assert "Better by 1: ≤ 84.100" in text, "a mean of plain bounds"


def test_a_source_with_several_numbers_is_held_against_each():
    bound = {**RESULT, "kind": "upper", "value": 84.2}
    weighted = {**bound, "value": 81.2, "samples": 500, "protocol": "256 levels; 500 samples an image"}
    also = [{"value": 83.7, "decimals": 2, "kind": "upper"}]
    reference = {**CONFIG["reference"], "value": 81.0, "decimals": 2, "kind": "estimate", "samples": 128, "also": also}
    config = changed(results=[weighted, bound], reference=reference)
    text = card.render(config)
    assert "The paper's number is 81.00 bits/dim, an estimate of 128 draws: Somebody 2016, Table 3." in text
    assert "The same source has 83.70 bits/dim, an upper bound." in text
    assert "Against 81.00 missed by 0.2: ≤ 81.200" in text
    assert "Against 83.70 missed by 0.5: ≤ 84.200" in text
    assert headline(config).value == 81.2


def test_more_may_be_better():
    metric = {"metric": "auc", "unit": "AUC", "decimals": 2, "higher_is_better": True}
    results = [{**RESULT, **metric, "kind": kind, "value": value} for kind, value in (("lower", 0.8), ("upper", 0.9))]
    config = changed(results=results, reference={**metric, "value": 0.85, "source": "s"})
    assert headline(config).value == 0.8, "the pessimistic bound"
    assert "Missed by 0.05: ≥ 0.80 ± 0.01 AUC" in card.render(config)
    assert "(missed by 0.05)" in tables.results_table({"a-cifar10": config})
    bare = {"metric": "auc", "value": 0.7, "source": "s"}  # as a recipe has it
    config = changed(results=results, reference=bare)
    assert "The paper's number is 0.7 AUC: s. Better by 0.1: ≥ 0.80" in card.render(config)
    assert tables.table({"a-cifar10": config})[1][5] == "0.7"
    references = {name: {**metric, "value": value, "source": "s"} for name, value in (("a", 0.9), ("b", 0.6))}
    configs = {name: changed(results=results, reference=each) for name, each in references.items()}
    assert [row[0] for row in tables.likelihoods(configs, "cifar10")[1:]] == ["b", "a"], "the worst first"


@pytest.mark.parametrize("names", [["checkpoints"], ["cifar10", "checkpoints"], ["chosen"]])
def test_tables_of_pages_are_replaced_and_nothing_else(names, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "bundled", lambda: {"pixelcnn-cifar10": CONFIG, "other-cifar10": CONFIG})
    begin, end = tables.BEGIN.format, tables.END.format
    (tmp_path / "docs").mkdir()
    pages = {tmp_path / "README.md": "", tmp_path / "docs" / "more.md": "../"}
    for page in pages:
        page.write_text("".join(f"# {n}\n{begin(n)}\nold | table\n{end(n)}\nend\n" for n in names), encoding="utf-8")
    other = tmp_path / "docs" / "other.md"
    other.write_text("no table")
    assert tables.write_pages(tmp_path) == list(pages)
    for page, top in pages.items():
        text = page.read_text(encoding="utf-8")
        made = {name: tables.page_table(tables.bundled(), name, top) for name in names}
        assert text == "".join(f"# {n}\n{begin(n)}\n{made[n]}\n{end(n)}\nend\n" for n in names)
        assert text.count(f"]({top}checkpoints/pixelcnn-cifar10/README.md)") == len(names)
        assert ("other-cifar10" in text) == ("chosen" not in names)
    assert other.read_text() == "no table"
    assert tables.write_pages(tmp_path) == [], "nothing has changed"


def test_pages_without_a_place_for_a_table_are_refused(tmp_path):
    with pytest.raises(ZooError, match=r"README\.md cannot be read: No such file"):
        tables.write_pages(tmp_path)
    begin, end = tables.BEGIN.format("checkpoints"), tables.END.format("checkpoints")
    for text, sentence in (
        ("", "No page has a place for a table"),
        (f"{end} {begin}", "no end of the table checkpoints"),
        (f"{begin}{end}{tables.BEGIN.format('mnist')}", "no end of the table mnist"),
    ):
        (tmp_path / "README.md").write_text(text)
        with pytest.raises(ZooError, match=sentence):
            tables.write_pages(tmp_path)
        assert (tmp_path / "README.md").read_text() == text


def test_one_command_makes_all_cards_and_tables(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "checkpoints" / "pixelcnn-cifar10"
    folder.mkdir(parents=True)
    write_config(folder, CONFIG)
    begin, end = tables.BEGIN.format("chosen"), tables.END.format("chosen")
    (tmp_path / "README.md").write_text(f"{begin}\n{end}\n")
    monkeypatch.setattr(finding, "BUNDLED", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    sharing.show_card(readme=True)
    assert capsys.readouterr().out.split() == [str(folder / "README.md"), "README.md"]
    assert (folder / "README.md").read_text(encoding="utf-8") == card.render(CONFIG, "pixelcnn-cifar10", ())
    assert "pixelcnn-cifar10" in (tmp_path / "README.md").read_text(encoding="utf-8")
    sharing.show_card(readme=True)
    assert capsys.readouterr().out == "", "nothing has changed"


def test_the_best_are_among_the_rows_of_the_readme():
    configs = tables.bundled()
    for dataset, unit in (("CIFAR-10", "FID"), ("CIFAR-10", "bits/dim"), ("MNIST", "nats")):
        results = {
            name: headline(config).value
            for name, config in configs.items()
            if headline(config) and headline(config).metric.unit == unit and tables.title_of(config) == dataset
        }
        assert len(results) > 3
        assert min(results, key=results.get) in tables.CHOSEN


def test_the_readme_has_at_most_ten_rows():
    assert len(tables.CHOSEN) <= 10
    assert set(tables.CHOSEN) <= set(finding.names())
    configs = tables.bundled()
    assert {tables.family(configs[name]) for name in tables.CHOSEN} == {
        "adversarial",
        "autoregressive",
        "flows",
        "latent",
    }


@pytest.mark.parametrize("name", finding.names())
def test_the_card_of_each_bundled_checkpoint_is_the_rendered_one(name):
    folder = finding.find(name)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == card.render(read_config(folder), name, pictures_in(folder)), f"run: zoo card {name} --write"
    # A table of 30 columns has no picture; all else that is bundled has one.
    assert (folder / "samples.png").is_file() == ("](samples.png)" in text)
    assert ("](samples.png)" in text) == (name != "maf-breast-cancer")
    assert all(film.stat().st_size <= 200_000 for film in folder.glob("*.webp"))


def test_a_card_promises_what_there_is():
    spec = {"kind": "image", "shape": [3, 32, 32], "levels": 256, "classes": 0, "condition": None}
    text = card.render(changed(spec=spec))
    assert "samples = model.sample(16, seed=0)" in text
    assert "![samples](samples.png)" in text
    assert ModelCard(text).data.pipeline_tag == "unconditional-image-generation"
    assert "![samples]" not in card.render(changed(spec=spec), pictures=())
    text = body(card.render(changed(spec=spec), pictures=["my-own.png", "samples.png", "trace.webp"]))
    shown = "![samples](samples.png)\n\n![my-own](my-own.png)\n\nThe way from noise to samples:\n\n![trace](trace.webp)"
    assert f"\n\n{shown}\n\n## Use" in text, "samples first, and of what is known what it shows"
    translator = changed(spec={**spec, "condition": {**spec, "condition": None}}, draws=False)
    text = card.render(translator)
    assert "model.sample" not in text
    assert "![samples]" not in text
    assert "help(model)  # what it can do" in text
    assert ModelCard(text).data.pipeline_tag == "image-to-image"
    assert ModelCard(card.render(changed(spec=spec, draws=False))).data.pipeline_tag is None
    words = {"kind": "tokens", "shape": [2], "levels": 9, "classes": 0, "condition": None}
    training = {"images": 1000, "images_per_second": 10.0}
    assert "- data seen: 1,000\n- speed: 10 data/s" in card.render(changed(spec=words, training=training))


def test_a_card_is_written_without_a_picture_that_is_not_there(tmp_path):
    write_config(tmp_path, CONFIG)
    assert "![samples]" not in card.write(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "samples.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    assert "![samples]" in card.write(tmp_path).read_text(encoding="utf-8")
    assert pictures_in(tmp_path) == ["samples.png"]
    assert pictures_in(tmp_path / "absent") == []
