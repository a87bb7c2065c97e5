"""The verdicts on claims, from rows that are written here."""

import pytest

from benchmarks._claim_finding import HOLDS, REFUTED, SHORT
from benchmarks._claim_verdicts import judge
from benchmarks.claims_table import claims_table
from tests.claim_rows import row, verdicts


def test_a_factor_holds_where_the_median_reaches_it():
    for speedup, verdict in ((9.99, SHORT), (10.0, HOLDS)):
        found = verdicts(row("gsm-resnet56-10x", speedup))
        assert found["resnet56 is 10× smaller", "time"] == (verdict, speedup)
        assert found["resnet56 is 10× smaller", "weights"] == (HOLDS, 10.0)
        assert found["resnet56 is 10× smaller", "bytes on disk"] == (SHORT, 9.0)


def test_special_hardware_is_refuted_by_one_network_that_is_surely_faster():
    claim = "standard frameworks cannot use such zeros: special hardware is needed", "time"
    slow = row("hypersparse-vgg19-90", 1.05)
    assert verdicts(slow)[claim] == (HOLDS, 1.05)
    assert verdicts(slow, row("gsm-lenet300-60x", 2.0))[claim] == (REFUTED, 2.0)
    # Channels that are gone are no proof: any framework runs a smaller network.
    assert claim not in verdicts(row("spred-filter-sgd-20", 4.0, 16, accuracy=0.5))


def test_filters_and_weights_stand_beside_each_other_by_level():
    sizes = {"planned_memory": 5_000_000, "planned_disk": 6_040_000}
    rows = [row("levels-filter-40", 2.0, b, bytes=sizes) for b in (1, 16)]
    skipped = {"torch.compile": "it was not asked for"}
    rows.append(row("spred-filter-adam-40", 1.5, 16, accuracy=0.815, skipped=skipped))
    rows[-1] |= {"images": 9, "data": "some", "tested": 9, "pace": {"batch_size": 3, "amp": None}}
    machine = {"cpu": "a CPU", "isa": "avx2", "torch": "2"}
    made = claims_table({"machine": machine, "command": "c", "rows": rows, "claims": []})
    last = made.splitlines()[-1]
    cells = [cell.strip() for cell in last.split("|")[1:-1]]
    assert cells[:5] == ["40% of whole filters", "–", "81.5", "–", "–"]
    assert cells[5] == cells[6] and cells[5].startswith("2.00× (")
    assert cells[7:] == ["5.0 MB", "6.0 MB"]
    assert "torch.compile was not among the dense forms in 1 of 3 rows." in made
    # A level that was not measured at both batches is no line.
    content = {"machine": machine, "command": "c", "rows": rows[1:], "claims": []}
    assert "removed" not in claims_table(content)


def test_orders_are_judged_by_what_was_measured():
    levels = {20: (0.8, 1.1), 40: (0.8, 1.2), 60: (0.7, 1.3), 80: (0.6, 1.32)}
    rows = []
    for optimizer, lead in (("sgd", 0.0), ("adam", 0.0), ("adamw", 0.0), ("adagrad", 0.01)):
        for level, (accuracy, speedup) in levels.items():
            more = {"accuracy": accuracy + lead, "images": 9, "data": "some", "tested": 900}
            rows.append(row(f"spred-filter-{optimizer}-{level}", speedup, 16, **more))
    steps = {"ratio": 1.1, "low": 0.99, "high": 1.2, "batch": 9}
    steps |= {"filter_ms": 10.0, "weight_ms": 11.0, "filter_bytes": 4e6, "weight_bytes": 5e6}
    rows.append(row("spred-weight-sgd-80", 1.1, 16, accuracy=0.7, tested=900))
    rows.append(row("levels-weight-80", 1.1, steps=steps))
    found = verdicts(*rows)
    time = "whole filters removed (trained with sgd) take up to 25 % off the time", "time saved"
    # 1 - 1/1.32 = 24.2 %.
    assert found[time] == (SHORT, pytest.approx(24.24, abs=0.01))
    adagrad = "Adagrad is the best of the four optimizers, over the four levels", "accuracy"
    assert found[adagrad] == (HOLDS, pytest.approx(1.0))
    beats = "at 80 % whole filters removed beat single weights removed in "
    assert found[f"{beats}accuracy", "accuracy"] == (SHORT, pytest.approx(-10))
    # Nearly always, but not surely.
    claim = "whole filters removed beat single weights removed in training time"
    assert found[claim, "training time"] == (SHORT, 1.1)
    claim = "whole filters removed beat single weights removed in memory while training"
    assert found[claim, "bytes in training"] == (HOLDS, 1.25)
    assert found[f"{beats}inference time", "inference time"] == (HOLDS, pytest.approx(1.2))
    equal = {"accuracy": 0.9, "images": 9, "data": "some", "tested": 900}
    theirs = [row(f"equal-{n}", 1.0, **equal) for n in ("mobilenet_v2", "shufflenet")]
    found = verdicts(row("equal-resnet18", 2.0, **(equal | {"accuracy": 0.95})), *theirs)
    other = "shufflenet of about as many operations"
    claim = f"ResNet18 under PSD1_P16 is more accurate than {other}"
    assert found[claim, "accuracy"] == (HOLDS, pytest.approx(5))
    # Of 900 images a point more is chance: its standard error is 1.4.
    nearly = verdicts(row("equal-resnet18", 2.0, **(equal | {"accuracy": 0.91})), *theirs)
    assert nearly[claim, "accuracy"] == (SHORT, pytest.approx(1))
    claim = f"ResNet18 under PSD1_P16 needs no longer than {other}"
    assert found[claim, "time"] == (HOLDS, pytest.approx(2))


def test_time_and_memory_of_the_levels_need_no_training():
    rows = []
    for level, speedup in ((20, 1.1), (40, 1.25), (60, 2.0), (80, 4.0)):
        small = {"bytes": {"dense_memory": 8, "planned_memory": 2}}
        rows.append(row(f"levels-filter-{level}", speedup, 1, **small))
        rows.append(row(f"levels-weight-{level}", 1.0, 1))
    found = verdicts(*rows)
    claim = "whole filters removed take up to 25 % off the time", "time saved"
    assert found[claim] == (HOLDS, pytest.approx(75))
    beats = "at 80 % whole filters removed beat single weights removed in "
    assert found[f"{beats}inference time", "inference time"] == (HOLDS, pytest.approx(4))
    assert found[f"{beats}bytes in memory", "bytes in memory"] == (HOLDS, pytest.approx(2))
    assert not any("accuracy" in quantity for _, quantity in found)
    # Three of four levels are no answer.
    assert claim not in verdicts(*(r for r in rows if r["case"] != "levels-filter-40"))


def test_what_has_not_been_measured_is_not_judged():
    assert verdicts() == {}
    assert all(f.why for f in judge({}))
