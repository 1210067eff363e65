"""Trees: immutable objects with fields, which JAX's transformations take apart and put together again."""

import inspect

from flax import struct


class Tree(struct.PyTreeNode):
    """Flax's `PyTreeNode`, and no tree of one class passes for one of another.

    JAX looks for a compiled function by the structure of its arguments, and takes the structures of two dataclasses for equal
    when their fields are: a Matérn-5/2 kernel for a Matérn-7/2 kernel. So every tree has its class among what is compared.
    """

    def __init_subclass__(cls, **options):
        cls.__annotations__ = {**inspect.get_annotations(cls), "_class": type}
        cls._class = struct.field(pytree_node=False, default=cls, kw_only=True, repr=False, compare=False)
        super().__init_subclass__(**options)
