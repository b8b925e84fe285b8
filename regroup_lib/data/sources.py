"""The named data sets: their publishers, and the properties by which they are checked.

Images stay uint8 ``[n, height, width, channels]``, sentences are str ``[n]``, and a user's table is a frame. Nothing is
unpickled here; torchvision reads its own CIFAR archives, after their checksum, when `fetch_data` fills the data
directory. A set published as image files is decoded once, into a cache file in the data directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from regroup_lib.files import data_directory

# The longest descriptions that scikit-learn has, about twenty sentences and more each.
DESCRIPTION_NAMES = ("breast_cancer", "digits", "iris", "kddcup99", "lfw", "rcv1", "twenty_newsgroups", "wine_data")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The expected properties of a named data set, and its publisher.

    `published` is its file or folder in the data directory, empty for a set of scikit-learn. `image_shape` is [height,
    width, channels], the default of a set that is decoded from image files, None for a set of text.
    `class_counts` has the samples of each class by split, ``"all"`` where the publisher has none; `aliases` other names
    of classes. `url` is the address of the publisher's files, `sha256` the digest of an archive of text.
    `split_file` is the split of a set that has none of its own: a CSV file with a column that names the group
    (``lesion_id``) or the sentence (``sentence``, by `sentence_digest`) and the column ``split``.
    """

    class_names: tuple[str, ...]
    publisher: str
    published: str = ""
    image_shape: tuple[int, int, int] | None = None
    class_counts: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    aliases: dict[str, str] = field(default_factory=dict, hash=False)
    url: str = ""
    sha256: str = ""
    split_file: Path | None = None

    @property
    def text(self) -> bool:
        """Whether the set holds sentences."""
        return self.image_shape is None

    @property
    def decoded(self) -> bool:
        """Whether the set is decoded from image files, so that their size in memory can be chosen."""
        return self.split_file is not None and not self.text

    def path(self, data_dir: str | Path | None = None) -> Path:
        """Return where the set lies in a data directory."""
        return data_directory(data_dir) / self.published

    def split(self) -> dict[str, str]:
        """Return the split of each group or sentence of the split file."""
        return dict(pd.read_csv(self.split_file, dtype=str).itertuples(index=False, name=None))


DIGIT_NAMES = tuple("0123456789")
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_NAMES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
HAM10000_NAMES = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")
SOURCES = {
    "cifar10": Source(
        published="cifar10.npz",
        image_shape=(32, 32, 3),
        class_counts={"train": (5000,) * 10, "test": (1000,) * 10},
        class_names=CIFAR10_NAMES,
        publisher="Krizhevsky 2009, through torchvision.datasets.CIFAR10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    "cifar100": Source(
        published="cifar100.npz",
        image_shape=(32, 32, 3),
        class_counts={"train": (500,) * 100, "test": (100,) * 100},
        class_names=CIFAR100_NAMES,
        publisher="Krizhevsky 2009, through torchvision.datasets.CIFAR100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        # Copies sorted into folders often drop the second word of the trees.
        aliases={tree: f"{tree}_tree" for tree in ("maple", "oak", "palm", "pine", "willow")},
    ),
    "ham10000": Source(
        published="ham10000",
        image_shape=(64, 64, 3),
        class_counts={"all": (6705, 1113, 1099, 514, 327, 142, 115)},
        class_names=HAM10000_NAMES,
        publisher="Tschandl et al. 2018, Harvard Dataverse, doi:10.7910/DVN/DBW86T",
        url="doi:10.7910/DVN/DBW86T",
        split_file=Path(__file__).with_name("ham10000_split.csv"),
    ),
    "phrasebank": Source(
        published="phrasebank",
        class_counts={"all": (604, 2879, 1363)},  # lines of PHRASEBANK_FILE
        class_names=("negative", "neutral", "positive"),
        publisher="Malo et al. 2014, Hugging Face data set takala/financial_phrasebank (Takala is an author)",
        url="https://huggingface.co/datasets/takala/financial_phrasebank/resolve/main/data/FinancialPhraseBank-v1.0.zip",
        sha256="0e1a06c4900fdae46091d031068601e3773ba067c7cecb5b0da1dcba5ce989a6",
        split_file=Path(__file__).with_name("phrasebank_split.csv"),
    ),
}
EMBEDDED = {
    "digits": Source(
        image_shape=(8, 8, 1),
        class_names=DIGIT_NAMES,
        publisher="scikit-learn's copy of the UCI optical digits (Alpaydin & Kaynak 1998)",
    ),
    "descriptions": Source(
        class_names=DESCRIPTION_NAMES, publisher="sentences of the descriptions that scikit-learn has of data sets"
    ),
}
DATASETS = (*EMBEDDED, *SOURCES)


def class_names_of(dataset: str) -> tuple[str, ...]:
    """Return the class names of a named data set, in label order, without loading it."""
    return (EMBEDDED | SOURCES)[dataset].class_names


def holds_text(dataset: str) -> bool:
    """Return whether a named data set holds sentences instead of images."""
    return (EMBEDDED | SOURCES)[dataset].text
