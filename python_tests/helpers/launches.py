"""Counts what a GPU would be given to do: ops that write: not those that take memory, or give a view."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Launches(TorchDispatchMode):
    """names: of the ops so far, in their order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.startswith("empty"):
            return result
        if func._schema.is_mutable or not _shares_memory(result, (args, kwargs)):
            self.names.append(name)
        return result


def _shares_memory(result, arguments):
    given = {_storage(each) for each in tree_leaves(arguments) if isinstance(each, Tensor)}
    return any(_storage(each) in given for each in tree_leaves(result) if isinstance(each, Tensor))


def _storage(tensor):
    return tensor.untyped_storage()._cdata
