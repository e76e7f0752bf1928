"""`features` and `preparation` as graphs, component by component."""

from allotment_learn.graph.preparation.inputs import SharedInputs, write_shared_inputs
from allotment_learn.graph.preparation.matrix import write_matrix, write_product

__all__ = ["SharedInputs", "write_matrix", "write_product", "write_shared_inputs"]
