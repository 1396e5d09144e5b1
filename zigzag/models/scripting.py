"""Mask R-CNN as TorchScript, the form in which torchvision's is deployed: it runs without the classes of this package.

The neck's Python cannot be scripted, and torch.export takes no detector whole: NMS branches on the number of boxes. So
the pyramid is exported, its graph of operations scripted, and what reads it is scripted from its source.
"""

# ruff: noqa: SLF001 - of an operation's schema and a graph's assertions there are no public names
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from zigzag.backends import select
from zigzag.models.detection import Detector
from zigzag.models.mask_rcnn import MaskRCNN
from zigzag.models.necks import EagerNeck
from zigzag.models.pyramid import NAMES, STRIDES, Pyramid
from zigzag.ops.region_context import widened


def scripted(detector: Detector) -> torch.jit.ScriptModule:
    """A `MaskRCNN` in evaluation as a ScriptModule, on its parameters, for images of any sizes and batches of any size.

    It takes a list of images, as `Detector.forward` does, and gives the same detections; for what it cannot take it
    raises torch.jit.Error. It stays on the device, in the dtype and with the backend of ``detector`` as it is now.
    torch.jit.load needs the operations: ``import zigzag, torchvision``. TorchScript itself is deprecated in PyTorch.

    Args:
        detector: with the ZigZag neck by its kernels, or with a plain FPN.

    Raises:
        TypeError: the detector is no Mask R-CNN.
        ValueError: it is in training mode, or has the eager neck.
        RuntimeError: the neck has no kernels to run on here.
    """
    if not isinstance(detector, MaskRCNN):
        raise TypeError(f"detector must be a MaskRCNN, got {type(detector).__name__}: TorchScript has no such heads")
    if detector.training:
        raise ValueError("detector must be in evaluation mode, got one in training mode: call detector.eval()")
    _check_neck(detector.backbone)
    return cast(torch.jit.ScriptModule, torch.jit.script(_Inference(detector).eval()))


def _check_neck(pyramid: Pyramid) -> None:
    """Raise unless the neck can be traced: stock PyTorch's equations read the values of the sizes of images."""
    if isinstance(pyramid.neck, EagerNeck):
        raise ValueError("detector must have a neck of the kind 'zigzag' or 'fpn', got 'eager', which cannot be traced")
    weight = next(pyramid.parameters())
    if select(None, "dense_pathway", weight) == "reference":
        raise RuntimeError(
            f"detector needs a backend with kernels, and for {weight.dtype} on {weight.device} none runs"
        )


class _Inference(nn.Module):
    """`Detector.forward` in evaluation, in TorchScript's Python."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.names = list(NAMES)
        self.transform, self.rpn, self.roi_heads = detector.transform, detector.rpn, detector.roi_heads
        self.pyramid = torch.jit.script(_graph(detector.backbone))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self._check(images)
        batch, _ = self.transform(images)
        sizes = torch.tensor([list(size) for size in batch.image_sizes])
        levels = self.pyramid(batch.tensors, sizes)
        maps: dict[str, Tensor] = {name: x for name, x in zip(self.names, levels, strict=True)}  # noqa: C416
        proposals, _ = self.rpn(batch, maps)
        found, _ = self.roi_heads(maps, proposals, batch.image_sizes)
        own_sizes = [(image.shape[1], image.shape[2]) for image in images]
        detections: list[dict[str, Tensor]] = self.transform.postprocess(found, batch.image_sizes, own_sizes)
        return detections

    def _check(self, images: list[Tensor]) -> None:
        if len(images) == 0:
            raise ValueError("images must be a list of one or more tensors (3, H, W), got an empty list")
        weight = self.rpn.head.cls_logits.weight
        for n, image in enumerate(images):
            if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
                raise ValueError(f"images[{n}] must have the shape (3, H >= 1, W >= 1), got {image.shape}")
            if image.dtype != weight.dtype or image.device != weight.device:
                raise ValueError(f"images[{n}] must have the dtype of the parameters and be on {weight.device}")


class _Maps(nn.Module):
    """`Pyramid.maps` as a module, which is what torch.export takes."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, images: Tensor, image_sizes: Tensor) -> list[Tensor]:
        return self.pyramid.maps(images, image_sizes)


def _graph(pyramid: Pyramid) -> fx.GraphModule:
    """The operations of `Pyramid.maps` for sizes in a tensor, in a form that TorchScript takes."""
    side = STRIDES[-1]  # the smallest batch: every level that may have few pixels has few of them
    images, sizes = next(pyramid.parameters()).new_zeros(2, 3, side, side), torch.tensor([[side, side], [side, 1]])
    axis = torch.export.Dim.DYNAMIC
    dynamic = ({0: axis, 2: axis, 3: axis}, {0: axis})
    exported = torch.export.export(_Maps(pyramid), (images, sizes), dynamic_shapes=dynamic, strict=False)
    module = exported.module(check_guards=False)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())  # without export's containers around arguments and results
    for node in list(graph.nodes):
        if node.target == torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif isinstance(node.target, torch._ops.OpOverload):
            _to_script(node)
        elif node.op == "output":
            node.args = (list(node.args[0]),)
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _to_script(node: Any) -> None:
    """Bring the call of an operation into a form that TorchScript takes."""
    schema, new = node.target._schema, node.graph.call_function
    with node.graph.inserting_before(node):
        if schema.name.endswith("::region_stats") and node.args[0].target == torch.ops.aten.to:
            node.update_arg(0, new(widened, node.args[0].args[:1]))  # which the trace has decided for its own sizes
        for index, (argument, value) in enumerate(zip(schema.arguments, node.args, strict=False)):
            if str(argument.type) == "List[Optional[Tensor]]":
                node.update_arg(index, [new(_optional, (entry,)) for entry in value])
    node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _device_by_name)
    node.target = node.target.overloadpacket


def _optional(x: Tensor | None) -> Tensor | None:
    """TorchScript takes a list of tensors for no list of optional ones."""
    return x


def _device_by_name(value: Any) -> Any:
    return str(value) if isinstance(value, torch.device) else value
