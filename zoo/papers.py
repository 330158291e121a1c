"""The papers behind the families: what a card cites, by a short key that a model's class names.

A class says `papers = ("pixelrnn",)`, or a property where its arguments decide, as those of a GAN do; config.json keeps
the keys, so that a card is made without the class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """What is cited of a paper.

    Args:
        title: of it.
        authors: their names as "Family, Given", in the paper's order, in full.
        year: of the publication at `venue`, or else of the preprint.
        venue: conference or journal; empty for a preprint.
        arxiv: its number there, say "1601.06759"; empty where it has none.
        url: where it can be read, if not on arXiv.
    """

    title: str
    authors: tuple[str, ...]
    year: int
    venue: str = ""
    arxiv: str = ""
    url: str = ""

    @property
    def link(self) -> str:
        """Where it can be read; empty where nowhere freely."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    @property
    def cited(self) -> str:
        """In a line of Markdown: authors, *title*, venue and year, link."""
        *first, last = (author.partition(",")[0] for author in self.authors)
        names = f"{', '.join(first)} and {last}" if first else last
        place = f"[arXiv {self.arxiv}]({self.link})" if self.arxiv else f"<{self.link}>" if self.link else ""
        return ", ".join(filter(None, (names, f"*{self.title}*", f"{self.venue} {self.year}".strip(), place)))

    def bibtex(self, key: str) -> str:
        """The entry of a BibTeX file under this key."""
        kind, where = ("inproceedings", "booktitle") if self.venue else ("misc", "")
        if self.venue.startswith("IEEE Transactions"):
            kind, where = "article", "journal"
        fields = {"title": f"{{{self.title}}}", "author": " and ".join(self.authors), "year": str(self.year)}
        fields |= {where: self.venue} if where else {}
        fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"} if self.arxiv else {}
        fields |= {"url": self.link} if self.link else {}
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@{kind}{{{key},\n{lines}}}"


def _paper(title: str, authors: str, year: int, venue: str = "", arxiv: str = "", url: str = "") -> Paper:
    return Paper(title, tuple(authors.split("; ")), year, venue, arxiv, url)


PAPERS: dict[str, Paper] = {
    # autoregressive
    "nade": _paper(
        "The Neural Autoregressive Distribution Estimator",
        "Larochelle, Hugo; Murray, Iain",
        2011,
        "AISTATS",
        url="https://proceedings.mlr.press/v15/larochelle11a.html",
    ),
    "eonade": _paper(
        "A Deep and Tractable Density Estimator",
        "Uria, Benigno; Murray, Iain; Larochelle, Hugo",
        2014,
        "ICML",
        "1310.1757",
    ),
    "darn": _paper(
        "Deep AutoRegressive Networks",
        "Gregor, Karol; Danihelka, Ivo; Mnih, Andriy; Blundell, Charles; Wierstra, Daan",
        2014,
        "ICML",
        "1310.8499",
    ),
    "made": _paper(
        "MADE: Masked Autoencoder for Distribution Estimation",
        "Germain, Mathieu; Gregor, Karol; Murray, Iain; Larochelle, Hugo",
        2015,
        "ICML",
        "1502.03509",
    ),
    "pixelrnn": _paper(
        "Pixel Recurrent Neural Networks",
        "van den Oord, Aaron; Kalchbrenner, Nal; Kavukcuoglu, Koray",
        2016,
        "ICML",
        "1601.06759",
    ),
    "gated-pixelcnn": _paper(
        "Conditional Image Generation with PixelCNN Decoders",
        "van den Oord, Aaron; Kalchbrenner, Nal; Vinyals, Oriol; Espeholt, Lasse; Graves, Alex; Kavukcuoglu, Koray",
        2016,
        "NeurIPS",
        "1606.05328",
    ),
    "pixelcnnpp": _paper(
        "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications",
        "Salimans, Tim; Karpathy, Andrej; Chen, Xi; Kingma, Diederik P.",
        2017,
        "ICLR",
        "1701.05517",
    ),
    "pixelsnail": _paper(
        "PixelSNAIL: An Improved Autoregressive Generative Model",
        "Chen, Xi; Mishra, Nikhil; Rohaninejad, Mostafa; Abbeel, Pieter",
        2018,
        "ICML",
        "1712.09763",
    ),
    # flows
    "nice": _paper(
        "NICE: Non-linear Independent Components Estimation",
        "Dinh, Laurent; Krueger, David; Bengio, Yoshua",
        2015,
        "ICLR, workshop track",
        "1410.8516",
    ),
    "planar": _paper(
        "Variational Inference with Normalizing Flows",
        "Rezende, Danilo Jimenez; Mohamed, Shakir",
        2015,
        "ICML",
        "1505.05770",
    ),
    "iaf": _paper(
        "Improved Variational Inference with Inverse Autoregressive Flow",
        "Kingma, Diederik P.; Salimans, Tim; Jozefowicz, Rafal; Chen, Xi; Sutskever, Ilya; Welling, Max",
        2016,
        "NeurIPS",
        "1606.04934",
    ),
    "realnvp": _paper(
        "Density estimation using Real NVP",
        "Dinh, Laurent; Sohl-Dickstein, Jascha; Bengio, Samy",
        2017,
        "ICLR",
        "1605.08803",
    ),
    "maf": _paper(
        "Masked Autoregressive Flow for Density Estimation",
        "Papamakarios, George; Pavlakou, Theo; Murray, Iain",
        2017,
        "NeurIPS",
        "1705.07057",
    ),
    "glow": _paper(
        "Glow: Generative Flow with Invertible 1x1 Convolutions",
        "Kingma, Diederik P.; Dhariwal, Prafulla",
        2018,
        "NeurIPS",
        "1807.03039",
    ),
    "neural-ode": _paper(
        "Neural Ordinary Differential Equations",
        "Chen, Ricky T. Q.; Rubanova, Yulia; Bettencourt, Jesse; Duvenaud, David",
        2018,
        "NeurIPS",
        "1806.07366",
    ),
    "ffjord": _paper(
        "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models",
        "Grathwohl, Will; Chen, Ricky T. Q.; Bettencourt, Jesse; Sutskever, Ilya; Duvenaud, David",
        2019,
        "ICLR",
        "1810.01367",
    ),
    # diffusion
    "diffusion": _paper(
        "Deep Unsupervised Learning using Nonequilibrium Thermodynamics",
        "Sohl-Dickstein, Jascha; Weiss, Eric A.; Maheswaranathan, Niru; Ganguli, Surya",
        2015,
        "ICML",
        "1503.03585",
    ),
    "vdm": _paper(
        "Variational Diffusion Models",
        "Kingma, Diederik P.; Salimans, Tim; Poole, Ben; Ho, Jonathan",
        2021,
        "NeurIPS",
        "2107.00630",
    ),
    "d3pm": _paper(
        "Structured Denoising Diffusion Models in Discrete State-Spaces",
        "Austin, Jacob; Johnson, Daniel D.; Ho, Jonathan; Tarlow, Daniel; van den Berg, Rianne",
        2021,
        "NeurIPS",
        "2107.03006",
    ),
    # mixtures
    "semi-tied": _paper(
        "Semi-Tied Covariance Matrices for Hidden Markov Models",
        "Gales, Mark J. F.",
        1999,
        "IEEE Transactions on Speech and Audio Processing",
    ),
    # adversarial
    "gan": _paper(
        "Generative Adversarial Nets",
        "Goodfellow, Ian J.; Pouget-Abadie, Jean; Mirza, Mehdi; Xu, Bing; Warde-Farley, David; Ozair, Sherjil; "
        "Courville, Aaron; Bengio, Yoshua",
        2014,
        "NeurIPS",
        "1406.2661",
    ),
    "lapgan": _paper(
        "Deep Generative Image Models using a Laplacian Pyramid of Adversarial Networks",
        "Denton, Emily; Chintala, Soumith; Szlam, Arthur; Fergus, Rob",
        2015,
        "NeurIPS",
        "1506.05751",
    ),
    "dcgan": _paper(
        "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
        "Radford, Alec; Metz, Luke; Chintala, Soumith",
        2016,
        "ICLR",
        "1511.06434",
    ),
    "f-gan": _paper(
        "f-GAN: Training Generative Neural Samplers using Variational Divergence Minimization",
        "Nowozin, Sebastian; Cseke, Botond; Tomioka, Ryota",
        2016,
        "NeurIPS",
        "1606.00709",
    ),
    "wgan": _paper(
        "Wasserstein GAN",
        "Arjovsky, Martin; Chintala, Soumith; Bottou, Léon",
        2017,
        arxiv="1701.07875",
    ),
    "wgan-gp": _paper(
        "Improved Training of Wasserstein GANs",
        "Gulrajani, Ishaan; Ahmed, Faruk; Arjovsky, Martin; Dumoulin, Vincent; Courville, Aaron",
        2017,
        "NeurIPS",
        "1704.00028",
    ),
    "cramer-gan": _paper(
        "The Cramer Distance as a Solution to Biased Wasserstein Gradients",
        "Bellemare, Marc G.; Danihelka, Ivo; Dabney, Will; Mohamed, Shakir; Lakshminarayanan, Balaji; Hoyer, Stephan; "
        "Munos, Rémi",
        2017,
        arxiv="1705.10743",
    ),
    "mmd-gan": _paper(
        "Demystifying MMD GANs",
        "Bińkowski, Mikołaj; Sutherland, Danica J.; Arbel, Michael; Gretton, Arthur",
        2018,
        "ICLR",
        "1801.01401",
    ),
    "sinkhorn-gan": _paper(
        "Learning Generative Models with Sinkhorn Divergences",
        "Genevay, Aude; Peyré, Gabriel; Cuturi, Marco",
        2018,
        "AISTATS",
        "1706.00292",
    ),
    "ot-gan": _paper(
        "Improving GANs Using Optimal Transport",
        "Salimans, Tim; Zhang, Han; Radford, Alec; Metaxas, Dimitris",
        2018,
        "ICLR",
        "1803.05573",
    ),
    "sngan": _paper(
        "Spectral Normalization for Generative Adversarial Networks",
        "Miyato, Takeru; Kataoka, Toshiki; Koyama, Masanori; Yoshida, Yuichi",
        2018,
        "ICLR",
        "1802.05957",
    ),
    "biggan": _paper(
        "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
        "Brock, Andrew; Donahue, Jeff; Simonyan, Karen",
        2019,
        "ICLR",
        "1809.11096",
    ),
    # diffusion
    "ddpm": _paper(
        "Denoising Diffusion Probabilistic Models",
        "Ho, Jonathan; Jain, Ajay; Abbeel, Pieter",
        2020,
        "NeurIPS",
        "2006.11239",
    ),
    "edm": _paper(
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        "Karras, Tero; Aittala, Miika; Aila, Timo; Laine, Samuli",
        2022,
        "NeurIPS",
        "2206.00364",
    ),
}


def papers_of(keys: Iterable[str] | None) -> dict[str, Paper]:
    """The papers of these keys, in their order; keys that are none, as a stranger's, are left out."""
    return {key: PAPERS[key] for key in keys or () if key in PAPERS}
