/* tflite-runtime's library is an extension of Python: it wants to find these when it is loaded. TensorFlow Lite within
 * it never looks at them, and nothing here starts what would. */
#define NAME(name) extern void *name[32]; __attribute__((visibility("default"))) void *name[32]

NAME(PyBaseObject_Type);
NAME(PyByteArray_Type);
NAME(PyCFunction_Type);
NAME(PyCapsule_Type);
NAME(PyDict_Type);
NAME(PyExc_AttributeError);
NAME(PyExc_BufferError);
NAME(PyExc_ImportError);
NAME(PyExc_IndexError);
NAME(PyExc_MemoryError);
NAME(PyExc_OverflowError);
NAME(PyExc_RuntimeError);
NAME(PyExc_SystemError);
NAME(PyExc_TypeError);
NAME(PyExc_ValueError);
NAME(PyFloat_Type);
NAME(PyInstanceMethod_Type);
NAME(PyMethod_Type);
NAME(PyModule_Type);
NAME(PyObject_GenericGetDict);
NAME(PyObject_GenericSetDict);
NAME(PyProperty_Type);
NAME(PyType_Type);
NAME(_Py_FalseStruct);
NAME(_Py_NoneStruct);
NAME(_Py_NotImplementedStruct);
NAME(_Py_TrueStruct);
