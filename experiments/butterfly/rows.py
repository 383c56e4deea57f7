"""The cells of Tables 1 to 3 of Yoo et al., each a row with the paper's numbers; and those of the stand-ins."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

__all__ = ["CLASSIFIERS", "ENCODERS", "NEEDS", "ROWS", "SOURCES", "STAND_INS", "Cell", "listed"]

Method = Literal["vanilla", "Prop-50", "Prop-101", "Prop-B", "UAP", "EHA"]
CLASSIFIERS = ("R50", "R101", "VGG16", "D169")
# The generator's encoder by method; the paper does not say Prop-B's ([R]).
ENCODERS: Mapping[str, str] = MappingProxyType({"Prop-50": "R50", "Prop-101": "R101", "Prop-B": "R101"})
# What is read for each data set; those of the paper first.
SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "STL-10": "stl10", "ImageNet-10": "imagenet", "ImageNet-50": "imagenet",
        "MNIST": "mnist", "CIFAR-10": "cifar10", "digits": "digits",
    }
)  # fmt: skip
STAND_INS = ("MNIST", "CIFAR-10", "digits")


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
        table: 1, 2 or 3.
        data: a data set of the paper, or a stand-in.
        classifier: of `CLASSIFIERS`; small networks in the place of these on the stand-ins.
        start: of the classifier: "A" from scratch, "B" from a network that was trained on the external images.
        method: what is added to the image.
        loss: of the generator: "ls", "lr"; "" without one.
        accuracy: in percent; None: the cell is a stand-in's, which no paper has.
        probability: the cell's second number, which the paper does not explain ([I] mean probability of the true
            class).
    """

    table: int
    data: str
    classifier: str
    start: str
    method: Method
    loss: str
    accuracy: float | None = None
    probability: float | None = None

    @property
    def problem(self) -> Literal["enhancing", "adversarial"]:
        """Table 3 has both: its classifiers from scratch are enhanced."""
        return "enhancing" if self.table == 1 or (self.table == 3 and self.start == "A") else "adversarial"

    @property
    def place(self) -> str:
        """The cell without its data set: the same in the paper's tables and a stand-in's."""
        method = f"{self.method}-{self.loss}" if self.table == 3 and self.loss else self.method
        return f"{self.classifier}/{self.start}/{method}"

    @property
    def name(self) -> str:
        """As `rows` of a configuration name it."""
        return f"table{self.table}/{self.data}/{self.place}"

    @property
    def told(self) -> str:
        """As the table prints it."""
        return "" if self.accuracy is None else f"{self.accuracy:g}/{self.probability:g}"


# The columns of each table: start, method, loss.
_COLUMNS: Mapping[int, tuple[tuple[str, Method, str], ...]] = {
    1: (
        ("A", "vanilla", ""), ("A", "Prop-50", "ls"), ("A", "Prop-101", "ls"),
        ("B", "vanilla", ""), ("B", "Prop-101", "ls"),
    ),
    2: (
        ("B", "Prop-50", "ls"), ("B", "Prop-101", "ls"), ("B", "Prop-B", "ls"), ("B", "UAP", ""), ("B", "EHA", ""),
    ),
    3: (
        ("A", "vanilla", ""), ("A", "Prop-50", "ls"), ("A", "Prop-50", "lr"),
        ("B", "vanilla", ""), ("B", "Prop-B", "ls"), ("B", "Prop-B", "lr"),
    ),
}  # fmt: skip

# The lines of the tables as printed: for each data set those of the four classifiers.
_PRINTED: Mapping[int, Mapping[str, str]] = {
    1: {
        "STL-10": """
            61/.588 78.1/.760 84.9/.826 92.0/.883 93.6/.890
            63/.570 84.1/.785 89.6/.852 93.0/.896 94.2/.907
            52/.518 92.4/.903 91.3/.866 83.4/.757 94.6/.930
            65/.564 86.5/.781 89.7/.829 95.4/.884 95.9/.897
        """,
        "ImageNet-10": """
            78/.685 96.0/.927 91.6/.871 98.0/.969 99.0/.974
            77/.666 93.6/.898 90.4/.871 98.0/.970 98.6/.972
            71/.613 95.4/.886 96.2/.900 94.8/.936 96.0/.927
            77/.659 97.0/.936 93.4/.884 98.0/.970 99.0/.971
        """,
        "ImageNet-50": """
            72/.649 91.5/.883 91.3/.886 94.4/.922 95.6/.928
            71/.635 89.0/.856 88.1/.832 95.7/.938 96.7/.949
            71/.616 93.4/.894 94.2/.902 88.5/.855 92.0/.906
            74/.626 92.1/.861 93.1/.875 95.5/.927 96.3/.934
        """,
    },
    2: {
        "STL-10": """
            5.00/.071 5.15/.052 6.92/.073 24.0/.176 20.4/.141
            6.60/.081 5.32/.056 9.30/.094 22.3/.175 31.2/.200
            7.00/.043 1.00/.028 7.49/.090 9.9/.099 77.7/.589
            14.0/.136 9.21/.104 2.80/.038 22.9/.169 19.4/.145
        """,
        "ImageNet-10": """
            6.10/.071 9.80/.110 12.4/.137 53.8/.319 9.60/.093
            6.00/.078 7.00/.086 7.80/.086 31.2/.212 16.6/.137
            4.00/.064 1.00/.032 5.40/.049 11.0/.115 73.4/.311
            5.00/.053 5.80/.063 3.00/.039 10.0/.113 14.8/.146
        """,
        "ImageNet-50": """
            3.72/.043 5.44/.052 10.8/.101 25.9/.162 14.2/.069
            12.0/.110 10.7/.092 11.6/.101 14.4/.074 19.0/.088
            2.00/.029 2.00/.022 3.20/.027 2.23/.021 56.4/.126
            7.04/.062 8.20/.074 6.56/.063 39.7/.272 10.8/.070
        """,
    },
    3: {
        "ImageNet-50": """
            72/.649 91.5/.883 88.6/.875 94.4/.922 10.8/.101 16.3/.156
            71/.635 89.0/.856 88.4/.854 95.7/.938 11.6/.101 22.2/.206
            71/.616 93.4/.894 92.6/.891 88.5/.855 3.20/.027 8.20/.078
            74/.626 92.1/.861 94.2/.919 95.5/.927 6.56/.063 18.4/.160
        """,
    },
}


def _printed() -> list[Cell]:
    cells = []
    for table, sets in _PRINTED.items():
        for data, text in sets.items():
            for classifier, line in zip(CLASSIFIERS, text.strip().splitlines(), strict=True):
                for column, numbers in zip(_COLUMNS[table], line.split(), strict=True):
                    accuracy, probability = map(float, numbers.split("/"))
                    cells.append(Cell(table, data, classifier, *column, accuracy, probability))
    return cells


def _of_stand_ins() -> list[Cell]:
    return [
        Cell(table, data, classifier, *column)
        for data in STAND_INS
        for table, columns in _COLUMNS.items()
        for classifier in CLASSIFIERS
        for column in columns
    ]


ROWS: Mapping[str, Cell] = MappingProxyType({cell.name: cell for cell in (*_printed(), *_of_stand_ins())})

_WEIGHTS = "published ImageNet weights of its networks"
NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "STL-10": f"STL-10 and {_WEIGHTS}, which are not here; one H100, about an hour (estimated)",
        "ImageNet-10": f"ImageNet and {_WEIGHTS}, which are not here; one H100, about two hours (estimated)",
        "ImageNet-50": f"ImageNet and {_WEIGHTS}, which are not here; one H100, about ten hours (estimated)",
        "MNIST": "MNIST; two CPU cores, about two minutes",
        "CIFAR-10": "CIFAR-10; two CPU cores, about four minutes",
        "digits": "scikit-learn; two CPU cores, about 15 seconds",
    }
)


def listed() -> list[str]:
    """A line for each cell of the paper, with its numbers and what it needs; then the stand-ins'.

    >>> listed()[0]
    'table1/STL-10/R50/A/vanilla (61/0.588): STL-10 and published ImageNet weights of its networks, which are not...'
    """
    lines = [f"{name} ({cell.told}): {NEEDS[cell.data]}" for name, cell in ROWS.items() if cell.data not in STAND_INS]
    for data in STAND_INS:
        own = [cell for cell in ROWS.values() if cell.data == data]
        for place in dict.fromkeys((cell.table, cell.place.partition("/")[2]) for cell in own):
            names = f"table{place[0]}/{data}/{{{','.join(CLASSIFIERS)}}}/{place[1]}"
            lines.append(f"{names} (a stand-in: no number of the paper): {NEEDS[data]}")
    return lines
