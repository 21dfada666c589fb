"""Expected results of nhwc_to_nchw: numpy's transpose."""


def cases(rng):
    shapes = [(1, 1, 1, 1), (2, 3, 4, 5), (1, 17, 3, 2), (3, 2, 1, 9)]
    inputs = [rng.standard_normal(shape) for shape in shapes]
    return [dict(x=x, out=x.transpose(0, 3, 1, 2).copy()) for x in inputs]
