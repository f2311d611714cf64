"""The public names of jaxheads, for type checkers and for `lazy_loader`, which imports each when it is first used."""

from . import data, edits, evidence, networks, objectives, plots, statistics, tables, train, view
from .class_objectives import (
    answer_logit,
    answer_loss,
    class_accuracy,
    class_logit,
    class_loss,
    class_probability,
)
from .edits import freeze, gate, mix, patch_heads, replace_heads, steer, window, zero_heads
from .evidence.nulls import shuffled_links, shuffled_marks, shuffled_pairs
from .evidence.roles import Evidence, name_heads
from .evidence.selection import held_out, with_intervals
from .evidence.specialisation import Specialisation, specialisation
from .execution.rehearsal import rehearse
from .generate.beams import Beams
from .generate.choosing import Sampling
from .generate.writing import Writing, generate
from .generate.written import written
from .log_probabilities import answer_log_probability, kl_divergence
from .masked_losses import masked_loss
from .measure import patterns, weights
from .measure.direct.direct_effects import DirectParts, direct_effects, direct_parts
from .measure.direct.lens import logit_lens
from .measure.direct.logit_copying import logit_copying, name_copying
from .measure.direct.text_span import TextSpan, text_span
from .measure.direct.transport import JacobianLens, jacobian_lens
from .measure.in_context_learning import ContextScore, icl_score
from .measure.patterns import METRICS, ByRows, Metric, head_detector, marked_share, register, retrieval, token_class
from .measure.patterns.alignment import alignment_error_rate
from .measure.patterns.given_patterns import measure_patterns
from .measure.patterns.scoring import measure
from .measure.patterns.variability import variability
from .measure.patterns.word_pooling import pool_words
from .measure.people.human import human
from .measure.people.readings import word_controls
from .measure.people.surprisal import surprisal
from .measure.probing.contrast import contrast
from .measure.probing.probe import probe
from .measure.query_key.attribution import QKAttribution, qk_attribution
from .measure.query_key.covariance import ContrastCovariance, contrast_covariance
from .measure.query_key.loadings import head_loadings
from .measure.relevance.faithfulness import Faithfulness, faithfulness
from .measure.relevance.methods import Relevance, relevance
from .measure.relevance.rules import Rules
from .measure.sampling.answer import Samples
from .measure.sampling.samples import samples
from .measure.similarity.redundancy import HeadPairs, compare_heads
from .measure.weights.components import component_composition
from .measure.weights.copying_eigenvalues import eigenvalue_copying
from .measure.weights.extreme_pairs import TokenPairs, token_pairs
from .measure.weights.factored import Factored, ov_circuit, qk_circuit
from .measure.weights.head_composition import Composition, composition
from .measure.weights.positional import positional_kernel
from .measure.weights.projections import Projections, projection_kernel
from .measure.weights.token_pair_maps import salient_tokens, token_maps
from .measure.words.documents import half_of
from .measure.words.edges import relation_edges
from .measure.words.parse import Parse, parse
from .measure.words.parsing_probe import parsing_probe
from .measure.words.relations import relations
from .measure.words.structure import structure
from .minimal_pairs import minimal_pair
from .models.adopting import adopt
from .models.by_hand import by_hand
from .models.families.clip import zero_shot
from .models.folding import fold_norms
from .models.inputs.batch import Batch
from .models.load import init, load
from .models.model import Model, Run, run
from .models.random_weights import random_weights
from .models.saving import to_hf, to_orbax
from .models.sharding import placement, shard
from .models.sites import SiteEdit
from .objectives import Objective, logit, logit_difference, loss, probability_difference
from .report.role_evidence import function_scores, role_evidence
from .steering import Steering, steer_heads
from .sweep import circuits
from .sweep.circuits.attribution import patch_edges
from .sweep.circuits.benchmark import auroc, faithfulness_curve
from .sweep.circuits.circuit import circuit
from .sweep.circuits.graph import Graph
from .sweep.circuits.keep_edges import keep_edges
from .sweep.circuits.search import search_circuits
from .sweep.estimates import compare_estimates
from .sweep.exact.ablate import ablate, cumulative, interactions
from .sweep.exact.context_use import context_use
from .sweep.exact.function_vectors import FunctionVectors, function_vectors
from .sweep.exact.head_proof import head_proof
from .sweep.exact.knock_out import knock_out
from .sweep.exact.patch import patch
from .sweep.exact.reading_times import reading_times
from .sweep.exact.share import share
from .sweep.gradients.attribute import attribute
from .sweep.gradients.importance import importance
from .sweep.path_patching.paths import all_paths, paths
from .sweep.question import plan
from .tables import HeadTable

__version__: str | None

__all__ = [
    # a model, its inputs, one run
    "Batch",
    "Model",
    "Run",
    "adopt",
    "by_hand",
    "fold_norms",
    "init",
    "load",
    "run",
    "placement",
    "shard",
    "to_hf",
    "to_orbax",
    "zero_shot",
    # edits are values
    "SiteEdit",
    "edits",
    "freeze",
    "gate",
    "mix",
    "patch_heads",
    "replace_heads",
    "steer",
    "window",
    "zero_heads",
    # what heads do
    "METRICS",
    "Evidence",
    "HeadPairs",
    "ContextScore",
    "Specialisation",
    "TextSpan",
    "ByRows",
    "Metric",
    "Samples",
    "compare_heads",
    "function_scores",
    "contrast",
    "head_detector",
    "half_of",
    "held_out",
    "icl_score",
    "marked_share",
    "measure",
    "measure_patterns",
    "name_heads",
    "pool_words",
    "probe",
    "random_weights",
    "register",
    "Parse",
    "parse",
    "parsing_probe",
    "relation_edges",
    "role_evidence",
    "relations",
    "structure",
    "retrieval",
    "samples",
    "shuffled_links",
    "shuffled_marks",
    "shuffled_pairs",
    "specialisation",
    "text_span",
    "token_class",
    "variability",
    "with_intervals",
    # beside people
    "human",
    "reading_times",
    "surprisal",
    "word_controls",
    # what an answer rests on
    "Faithfulness",
    "Relevance",
    "Rules",
    "faithfulness",
    "relevance",
    # why they look there
    "ContrastCovariance",
    "QKAttribution",
    "contrast_covariance",
    "head_loadings",
    "qk_attribution",
    # what their weights say
    "Composition",
    "Factored",
    "Projections",
    "TokenPairs",
    "component_composition",
    "composition",
    "eigenvalue_copying",
    "ov_circuit",
    "alignment_error_rate",
    "positional_kernel",
    "projection_kernel",
    "qk_circuit",
    "salient_tokens",
    "token_maps",
    "token_pairs",
    # what they add to the logits
    "DirectParts",
    "JacobianLens",
    "direct_effects",
    "direct_parts",
    "jacobian_lens",
    "logit_copying",
    "logit_lens",
    "name_copying",
    # what they write
    "Beams",
    "Sampling",
    "Writing",
    "generate",
    "written",
    # whether they matter
    "Objective",
    "ablate",
    "answer_log_probability",
    "attribute",
    "compare_estimates",
    "context_use",
    "cumulative",
    "FunctionVectors",
    "function_vectors",
    "importance",
    "interactions",
    "kl_divergence",
    "head_proof",
    "knock_out",
    "answer_logit",
    "answer_loss",
    "class_accuracy",
    "class_logit",
    "class_loss",
    "class_probability",
    "logit",
    "logit_difference",
    "loss",
    "masked_loss",
    "minimal_pair",
    "objectives",
    "plots",
    "patch",
    "plan",
    "probability_difference",
    "rehearse",
    "share",
    "Steering",
    "steer_heads",
    # by which ways
    "Graph",
    "all_paths",
    "auroc",
    "circuit",
    "faithfulness_curve",
    "keep_edges",
    "patch_edges",
    "paths",
    "search_circuits",
    # answers
    "HeadTable",
    # rooms of their own, with what is beside the names above
    "circuits",
    "data",
    "evidence",
    "networks",
    "patterns",
    "statistics",
    "tables",
    "train",
    "view",
    "weights",
]
