def repaired(*a):
    raise NotImplementedError
