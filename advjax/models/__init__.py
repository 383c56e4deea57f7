"""Networks of the papers; each file holds one family."""

from advjax.models.lenet import LeNet, caffe_solver

__all__ = ["LeNet", "caffe_solver"]
