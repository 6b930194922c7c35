"""Table 3 of "Attention Is All You Need" (Vaswani et al. 2017): variations of the base model.

Each row is the base experiment of a scale with other values of some fields, in the proportion in which the paper's row
stands to its base. The paper measures on the development set, with the last checkpoint alone; so do these: scores are
those of the last evaluation in training.

The paper's numbers of parameters follow from the sizes of its rows, embeddings tied, to their last digit in every row
but big if the vocabulary has 41,100 tokens (anything from 41,004 to 41,208). Section 5.1 speaks of about 37,000, with
which the rows have 1 to 5 million less. Big would have 218 million with 41,100, has 214 with 37,000, and 213 in the
paper. Rows (B) change the width of keys and queries alone; that of values stays d_model / heads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_jax.analysis.plan import with_vocabulary
from transformer_jax.analysis.tables import Measured
from transformer_jax.runs.sweep import Row
from transformer_jax.training.experiment import Experiment


@dataclass(frozen=True)
class Variation:
    """A row of the table: what the paper reports, and sizes as multiples of the base's."""

    name: str
    """The paper's group, and its value; a smaller scale has the same proportion to its own base."""
    perplexity: float
    bleu: float
    parameters: int | None = None
    """In millions; None: like the base."""
    layers: float = 1.0
    width: float = 1.0
    feed_forward: float = 1.0
    heads: float = 1.0
    key_width: float = 1.0
    """Of the queries and keys of a head; its values stay as wide as the base's."""
    no_dropout: bool = False
    more_dropout: float = 0.0
    """Added to the base's."""
    label_smoothing: float | None = None
    learned_positions: bool = False
    steps: int = 1

    @property
    def group(self) -> str:
        """The letter of the group; base and big are their own."""
        return self.name.partition("-")[0]


VARIATIONS = (
    Variation("base", 4.92, 25.8, 65),
    Variation("A-h1", 5.29, 24.9, heads=1 / 8),
    Variation("A-h4", 5.00, 25.5, heads=1 / 2),
    Variation("A-h16", 4.91, 25.8, heads=2.0),
    Variation("A-h32", 5.01, 25.4, heads=4.0),
    Variation("B-dk16", 5.16, 25.1, 58, key_width=1 / 4),
    Variation("B-dk32", 5.01, 25.4, 60, key_width=1 / 2),
    Variation("C-N2", 6.11, 23.7, 36, layers=1 / 3),
    Variation("C-N4", 5.19, 25.3, 50, layers=2 / 3),
    Variation("C-N8", 4.88, 25.5, 80, layers=4 / 3),
    Variation("C-d256", 5.75, 24.5, 28, width=1 / 2),
    Variation("C-d1024", 4.66, 26.0, 168, width=2.0),
    Variation("C-ff1024", 5.12, 25.4, 53, feed_forward=1 / 2),
    Variation("C-ff4096", 4.75, 26.2, 90, feed_forward=2.0),
    Variation("D-drop0.0", 5.77, 24.6, no_dropout=True),
    Variation("D-drop0.2", 4.95, 25.5, more_dropout=0.1),
    Variation("D-ls0.0", 4.67, 25.3, label_smoothing=0.0),
    Variation("D-ls0.2", 5.47, 25.7, label_smoothing=0.2),
    Variation("E-learned", 4.92, 25.7, learned_positions=True),
    Variation("big", 4.33, 26.4, 213, width=2.0, feed_forward=2.0, heads=2.0, more_dropout=0.2, steps=3),
)
MOST_NATS = 700
"""Of a loss whose exponential is a number."""
VOCABULARY = 41_100
"""Tokens with which the paper's column of parameters follows from its sizes."""
SIGNS = "Values of this scale do not compare with the paper's; the signs of changes do."
PARAMETERS = (
    f"The paper's parameters follow from its sizes with a vocabulary of {VOCABULARY:,} tokens, not the about 37,000 "
    "of its section 5.1, but for big, which would have 218 million."
)


@dataclass(frozen=True)
class Scale:
    """An experiment that takes the place of the base."""

    file: str
    variant: str | None
    score: str
    """The score of the validation examples that takes the place of BLEU."""
    overrides: tuple[str, ...] = ()
    """Changes to the experiment that all rows have."""
    note: str = SIGNS


SCALES = {
    "dates": Scale("experiments/paper/table3_dates.py", None, "exact_match"),
    "multi30k": Scale(
        "experiments/multi30k_en_de.py", None, "bleu", ("--model.num-heads", "8", "--train.patience", "0")
    ),
    "wmt14": Scale(
        "experiments/paper/wmt14.py", "en_de_base_files", "bleu", ("--train.validation-examples", "3000"), PARAMETERS
    ),
}


def chosen(names: str | None) -> list[Variation]:
    """The variations of groups or rows such as `A,C-N2`, the base always among them; ValueError for an unknown one."""
    wanted = [] if names is None else [name.strip() for name in names.split(",")]
    known = [*(one.group for one in VARIATIONS), *(one.name for one in VARIATIONS)]
    for name in wanted:
        if name not in known:
            raise ValueError(f"--rows has groups and rows of {', '.join(dict.fromkeys(known))}, not {name!r}")
    return [one for one in VARIATIONS if not wanted or one.name == "base" or {one.name, one.group} & {*wanted}]


def row(variation: Variation, base: Experiment) -> Row:
    """The fields, as they are typed, by which a variation differs from the base experiment."""
    model, fields = base.model, dict[str, Any]()
    if variation.layers != 1:
        fields["model.num-layers"] = _scaled(variation, "layers", model.num_layers)
    if variation.width != 1:
        fields["model.d-model"] = round(model.d_model * variation.width)
        # The paper's follows the width by itself (section 5.3); where the peak is given, it is scaled alike.
        if (peak := base.optimizer.learning_rate) is not None:
            fields["optimizer.learning-rate"] = float(f"{peak * variation.width**-0.5:.4g}")
    if variation.feed_forward != 1:
        fields["model.d-ff"] = round(model.d_ff * variation.feed_forward)
    if variation.heads != 1:
        fields["model.num-heads"] = _scaled(variation, "heads", model.num_heads)
    if variation.key_width != 1:
        fields["model.head-dim"] = round(model.head_width * variation.key_width)
        fields["model.value-dim"] = model.head_width
    if variation.no_dropout or variation.more_dropout:
        fields["model.dropout"] = 0.0 if variation.no_dropout else round(model.dropout + variation.more_dropout, 3)
    if variation.label_smoothing is not None:
        fields["task.label-smoothing"] = variation.label_smoothing
    if variation.learned_positions:
        fields["model.positions"] = "learned"
    if variation.steps != 1:
        fields["train.steps"] = base.train.steps * variation.steps
    return Row(variation.name, tuple(word for field, value in fields.items() for word in (f"--{field}", str(value))))


def _scaled(variation: Variation, name: str, of_base: int) -> int:
    """The number of layers or heads; ValueError where it would be the base's or none."""
    value = round(of_base * getattr(variation, name))
    if value in (0, of_base):
        raise ValueError(f"{variation.name} of a base with {of_base} {name} would have {value}; choose other --rows")
    return value


def planned(variation: Variation, row: Row, experiment: Experiment) -> dict[str, Any]:
    """A row of the paper beside the overrides and the parameters of ours, which need no training."""
    return {
        "row": variation.name,
        "overrides": " ".join(row.overrides),
        "PPL (paper)": variation.perplexity,
        "BLEU (paper)": variation.bleu,
        "million parameters (paper)": variation.parameters,
        "parameters": with_vocabulary(experiment).model.num_parameters(),
    }


def with_paper(
    variations: Sequence[Variation], records: Sequence[Mapping[str, Any]], score: str
) -> list[dict[str, Any]]:
    """The table of the runs with the paper's columns beside ours, and whether each change has the paper's sign."""
    table = []
    for variation, record in zip(variations, records, strict=True):
        loss, ours = record.get("validation_loss"), record.get(f"validation_{score}")
        perplexity = Measured(tuple(map(_perplexity, loss.values))) if loss else None
        table.append(
            {
                "row": variation.name,
                "overrides": record["overrides"],
                "finished": record["finished"],
                "PPL (paper)": variation.perplexity,
                "PPL": perplexity,
                "BLEU (paper)": variation.bleu,
                score: ours,
                "PPL's sign": "",
                f"{score}'s sign": "",
                "million parameters (paper)": variation.parameters,
                **{name: record.get(name) for name in ("parameters", "seconds", "device", "commit", "signature")},
                "problem": record["problem"],
            }
        )
    for line in table[1:]:
        for name, paper in (("PPL", "PPL (paper)"), (score, "BLEU (paper)")):
            line[f"{name}'s sign"] = sign(line[paper] - table[0][paper], table[0][name], line[name])
    return table


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < MOST_NATS else math.inf


def sign(paper: float, base: Measured | None, row: Measured | None) -> str:
    """Whether our change has the sign of the paper's change.

    yes or no, with a question mark where it is no larger than the spread of either row's seeds (or there is one seed);
    nothing where the paper saw no change or a row has no number.
    """
    if round(paper, 6) == 0 or base is None or row is None or math.isnan(base.mean + row.mean):
        return ""
    change, spreads = row.mean - base.mean, (base.spread, row.spread)
    known = [spread for spread in spreads if spread is not None]
    sure = len(known) == 2 and abs(change) > max(known)
    return ("yes" if change * paper > 0 else "no") + ("" if sure else "?")


def verdict(table: Sequence[Mapping[str, Any]], score: str) -> str:
    """How many changes have the paper's sign."""
    lines, within = [], {"no?": " (within the spread)"}
    for name in ("PPL", score):
        signs = {line["row"]: line[f"{name}'s sign"] for line in table if line[f"{name}'s sign"]}
        held = [text for text in signs.values() if text.startswith("yes")]
        failed = [row + within.get(text, "") for row, text in signs.items() if text.startswith("no")]
        sure = f"{held.count('yes')} of them by more than the spread of the seeds"
        if not signs:
            lines.append(f"{name}: no change against the base to look at")
            continue
        lines.append(
            f"{name}: {len(held)} of {len(signs)} changes against the base have the paper's sign, {sure}"
            + (f"; not so {', '.join(failed)}" if failed else "")
        )
    return "\n".join(lines)
